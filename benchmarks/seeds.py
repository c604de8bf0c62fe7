"""Statistical tests at other seeds: does one pass by the luck of its own?

    python benchmarks/seeds.py                        # 20 seeds, results/seeds.json; an hour
    python benchmarks/seeds.py tests/test_rare.py::test_sigma_is_found_where_more_noise_errs_less

Every draw of the engine, and every generator of numpy that a test makes, is given its seed plus a
shift of 1, 2, ..., 20. A test whose false-alarm rate is 1 in 10,000 may fail at none of them; one
that fails at several either checks too narrowly or shows a fault. The result keeps the tests tried
before, too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked_pytest import Watch
from machine import machine

from robustcore.evaluator import Evaluator

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "seeds.json"
TESTS = [
    f"tests/test_{file}.py::test_{test}"
    for file, tests in {
        "rare": [
            "sigma_is_found_where_more_noise_errs_less",
            "the_rate_at_a_sigma_is_found_where_more_noise_errs_less",
            "splitting_agrees_with_plain_counting_on_a_network",
            "intervals_hold_for_a_half_space_at_every_rate",
            "the_check_of_coverage_fails_for_intervals_half_as_wide",
            "the_rate_itself_is_unbiased",
            "intervals_hold_for_two_pieces_a_shell_and_a_ball",
            "a_plane_that_was_missed_is_announced_and_one_that_was_not_is_not",
            "error_rate_joins_plain_counting_and_goes_on_below_it",
            "intervals_hold_where_sigma_max_is_hardly_above_sigma",
        ],
        "rare_bridge": [
            "a_bridge_is_as_sure_as_it_says",
            "errors_that_the_draws_cannot_meet_are_told_by_the_particles",
            "folds_of_unlike_sizes_count_as_their_shares_are_asked_for",
        ],
        "rare_levels": ["of_margins_that_are_alike_those_below_go_on"],
        "sigma": [
            "interval_covers_sigma",
            "rate_of_one_in_samples_has_no_lower_bound",
            "near_sigma_max",
            "fresh_bisection_covers_at_every_guess_at_once",
        ],
        "search": ["the_fit_refuses_what_is_not_normal"],
        "certify": [
            "radius_is_wrong_no_oftener_than_alpha",
            "stopping_early_errs_no_oftener_than_alpha",
            "early_predictions_err_no_oftener_than_alpha",
            "both_readings_of_a_half_space_are_its_distance",
        ],
        "stats": [
            "order_ranks_bound_a_quantile_of_draws",
            "confidence_sequence_survives_looking_after_every_draw",
        ],
        "streams": ["draws_of_two_streams_are_independent"],
    }.items()
    for test in tests
]


def shifted(shift: int) -> None:
    """Add to the seed of every engine and generator that is made from now on."""
    made, generator = Evaluator.__init__, np.random.default_rng

    def init(self: Evaluator, *arguments: Any, seed: int = 0, **options: Any) -> None:
        made(self, *arguments, seed=seed + shift, **options)

    def default_rng(seed: Any = None) -> np.random.Generator:
        return generator(seed + shift if isinstance(seed, int) else seed)

    Evaluator.__init__ = init  # type: ignore[method-assign]
    np.random.default_rng = default_rng  # type: ignore[assignment]


def failed_at(shift: int, tests: list[str]) -> tuple[set[str], set[str]]:
    """(tests that ran, those that failed), in a process of its own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        watch = Watch()
        shifted(shift)
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        pytest.main(["-q", "-p", "no:cacheprovider", "-o", "addopts=", *tests], plugins=[watch])
        os.write(write, json.dumps([list(watch.seconds), watch.failed]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        ran, failed = json.loads(answer.read())
    os.waitpid(child, 0)
    return set(ran), set(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tests", nargs="*", default=TESTS)
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    found: dict[str, list[int]] = {}
    for shift in range(1, options.seeds + 1):
        ran, failed = failed_at(shift, options.tests)
        for test in sorted(ran):
            found.setdefault(test, [])
            if test in failed:
                found[test].append(shift)
        print(f"shift {shift}: {len(ran)} tests, failed: {', '.join(sorted(failed)) or 'none'}")
        sys.stdout.flush()
    kept = json.loads(RESULT.read_text())["failed_at"] if RESULT.exists() else {}
    result = {
        "command": "python benchmarks/seeds.py",
        "machine": machine(),
        "shifts": options.seeds,
        "failed_at": dict(sorted((kept | found).items())),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
