"""OpenTURNS' subset and line sampling on sets of 100 dimensions, for `bench_rare.py`.

    python benchmarks/rare_openturns.py < sets.json

Run by a Python that has openturns, which may be another one. Each set of the list on standard input
has "planes": distances in units of sigma of half-spaces at right angles, and "curve": what the
square of the next component adds. Line sampling is given the direction of the nearest error, as
after FORM. Prints a list of estimates and evaluations.
"""

import json
import sys

import numpy as np
import openturns as ot
from openturns import experimental

D, RUNS = 100, 20


def event(planes, curve):
    calls = [0]

    def height(points):
        z = np.asarray(points)
        calls[0] += len(z)
        found = [z[:, i] + curve * z[:, i + 1] ** 2 - b for i, b in enumerate(planes)]
        return np.max(found, 0)[:, None]

    function = ot.PythonFunction(D, 1, func_sample=height)
    output = ot.CompositeRandomVector(function, ot.RandomVector(ot.Normal(D)))
    return ot.ThresholdEvent(output, ot.Greater(), 0.0), calls


def subset(failing):
    method = ot.SubsetSampling(failing)
    method.setMaximumOuterSampling(1000)
    method.setBlockSize(1)
    return method


def line(failing):
    method = experimental.LineSampling(failing, ot.Point([1.0] + [0.0] * (D - 1)))
    method.setMaximumOuterSampling(100)
    method.setMaximumCoefficientOfVariation(-1.0)
    method.setAdaptiveImportantDirection(False)  # with it, estimates scatter over decades
    return method


def main():
    found = []
    for each in json.load(sys.stdin):
        for name, make in (("subset sampling", subset), ("line sampling", line)):
            estimates, spent, why = [], [], None
            for run in range(RUNS):
                ot.RandomGenerator.SetSeed(run)
                failing, calls = event(**each)
                try:
                    method = make(failing)
                    method.run()
                    estimates.append(method.getResult().getProbabilityEstimate())
                    spent.append(calls[0])
                except (RuntimeError, TypeError, MemoryError) as error:
                    why = str(error)[:200]
                    break
            found.append({**each, "method": name, "estimates": estimates, "evaluations": spent})
            if why is not None:
                found[-1]["failed"] = why
    json.dump({"openturns": ot.__version__, "found": found}, sys.stdout)


main()
