"""Who does better under which corruption: our models against the paper's table, claim by claim.

    python examples/figure5.py --out DIR
    python benchmarks/corruption_directions.py --paper cifar_corruption.csv \
        clean=DIR/cifar10-natural.npz sigma0.4=DIR/cifar10-gauss0.4.npz ... [--out FILE]

Each record is named by its column of the paper's table (clean, adv, sigma0.1, sigma0.4). For each
pair of columns and each corruption of the table (which leaves Gaussian noise out), the mean of its
severities: the paper's difference in percent points, ours with its 95 % interval over images
(paired), and whether the directions agree; "open" is a difference of ours whose interval holds 0,
"even" one of the paper's below 1 point. --out writes what is printed as JSON.
"""

import argparse
import collections
import csv
import itertools
import json
import sys
from pathlib import Path

import numpy as np
from machine import machine

from robustcore.results import Record
from robustcore.results.corruptions import gain


def published(path):
    """{column: {corruption: mean accuracy in percent}}."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    with Path(path).open(newline="") as file:
        for row in csv.DictReader(file):
            name = row.pop("Corruption").rpartition("-")[0]
            for column, value in row.items():
                found[column][name].append(float(value))
    return {
        column: {name: float(np.mean(values)) for name, values in each.items()}
        for column, each in found.items()
    }


def judged(paper, mean, wide):
    if abs(paper) < 1:
        return "even"
    if abs(mean) <= wide:
        return "open"
    return "agree" if (mean > 0) == (paper > 0) else "DIFFER"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--paper", required=True)
    parser.add_argument("--out", type=Path, help="a JSON file for the same numbers")
    parser.add_argument("records", nargs="+", metavar="COLUMN=FILE")
    arguments = parser.parse_args()
    paper = published(arguments.paper)
    pairs = (each.split("=", 1) for each in arguments.records)
    ours = {column: Record.load(path) for column, path in pairs}
    told = {}
    for one, other in itertools.combinations(ours, 2):
        verdicts = collections.Counter()
        rows = {}
        print(f"\n{other} against {one}, points (paper; ours)\n")
        for name in (each for each in ours[one].names if each in paper[one]):
            theirs = paper[other][name] - paper[one][name]
            mean, wide = (100 * each for each in gain(ours[one], ours[other], [name]))
            verdict = judged(theirs, mean, wide)
            verdicts[verdict] += 1
            rows[name] = theirs, mean, wide, verdict
            print(f"| {name} | {theirs:+.1f} | {mean:+.1f} +- {wide:.1f} | {verdict} |")
        print(f"\n{dict(verdicts)}")
        told[f"{other} against {one}"] = {"verdicts": verdicts, "rows": rows}
    if arguments.out:
        # paths are the machine's own
        words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv]
        command = " ".join(["python", *words])
        about = {"command": command, "machine": machine()}
        arguments.out.write_text(json.dumps(about | told, indent=1) + "\n")


if __name__ == "__main__":
    main()
