"""How often the 95 % interval for sigma holds the truth, on models whose truth is known.

    pytest benchmarks/bench_coverage.py --benchmark-only \
        --benchmark-json=benchmarks/results/coverage.json

2,000 repeats for each case: a half-space and a slab in 16 dimensions, rates 0.001 to 0.5, with and
without rtol. A half-space never reaches a rate of 0.5. Asserts that each coverage lies in 94 to
98 %, up to what 2,000 repeats leave uncertain (false-alarm rate 1e-4).
"""

import sys
from pathlib import Path

import pytest
from scipy.stats import binomtest

import robustcore as rc

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from models import HalfSpace, Slab, grey

REPEATS = 2000
CASES = [
    (HalfSpace, 0.001, 4000),
    (HalfSpace, 0.01, 1000),
    (HalfSpace, 0.01, 4000),
    (HalfSpace, 0.1, 1000),
    (Slab, 0.001, 4000),
    (Slab, 0.01, 1000),
    (Slab, 0.1, 1000),
    (Slab, 0.5, 1000),
]


@pytest.mark.parametrize("rtol", [None, 0.05])
@pytest.mark.parametrize(("model_type", "rate", "samples"), CASES)
def test_coverage(benchmark, capsys, model_type, rate, samples, rtol):
    model, (x, y) = model_type(16, 0.5), grey(REPEATS)
    record = benchmark.pedantic(
        lambda: rc.sigma_at_error_rate(
            rc.Engine(model, progress=False), x, rate, y, samples=samples, rtol=rtol, sigma_max=10
        ),
        rounds=1,
    )
    truth = model.sigma(rate)
    below = int((record.sigma_high < truth).sum())
    above = int((record.sigma_low > truth).sum())
    covered = REPEATS - below - above
    benchmark.extra_info.update(
        coverage=covered / REPEATS,
        too_low=below,
        too_high=above,
        repeats=REPEATS,
        mean_evaluations=round(float(record.n_forward.mean()), 1),
    )
    with capsys.disabled():
        print(f"  coverage {covered / REPEATS:.4f}, {record.n_forward.mean():.0f} evaluations")
    assert binomtest(covered, REPEATS, 0.94, alternative="less").pvalue > 1e-4
    assert binomtest(covered, REPEATS, 0.98, alternative="greater").pvalue > 1e-4
