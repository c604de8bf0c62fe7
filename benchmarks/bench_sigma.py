"""sigma(x0, 0.01) of 50 CIFAR-10 images: evaluations, time and overhead, against plain torch.

    OMP_WAIT_POLICY=passive pytest benchmarks/bench_sigma.py --benchmark-only \
        --benchmark-json=benchmarks/results/sigma.json

The baseline is the paper's procedure as one would write it well in torch: eager, batches of 500,
no gradients, 1,000 draws an image made once and reused at every sigma. Every ratio is of numbers
of one run on one machine; each case first checks that the answers agree.
"""

import statistics
import time

import numpy as np
import pytest
import torch

import robustcore as rc

IMAGES, RATE, SAMPLES = 50, 0.01, 1000


class Timed(torch.nn.Module):
    """A model that knows how long it took, and for how many images."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seconds, self.images = inner, 0.0, 0

    def forward(self, x):
        start = time.perf_counter()
        logits = self.inner(x)
        self.seconds += time.perf_counter() - start
        self.images += len(x)
        return logits


@torch.no_grad()
def plain_sigma(model, x, y):
    """The paper's search for one image (1, C, H, W)."""
    noise = torch.randn(SAMPLES, *x.shape[1:])
    low, high, sigma = 0.0, 1.0, 0.1
    if model(x).argmax(1) != y:
        return 0.0
    while high - low > 0.001:
        errors = sum(int((model(x + sigma * z).argmax(1) != y).sum()) for z in noise.split(500))
        if errors > RATE * SAMPLES:
            high, sigma = sigma, (low + sigma) / 2
        else:
            low, sigma = sigma, min(2 * sigma, (sigma + high) / 2)
    return sigma


@pytest.fixture(scope="module")
def example():
    return rc.load_example("cifar10-natural", images=IMAGES)


def agree(found, paper):
    """Share of images whose brackets overlap, and the largest relative difference of sigma."""
    both = (found.status == "found") & (paper.status == "found")
    assert (found.status == paper.status).all()
    overlap = (found.bracket_low <= paper.bracket_high) & (paper.bracket_low <= found.bracket_high)
    return overlap[both].mean(), float(gaps(found, paper).max())


def gaps(found, paper):
    """How far apart the brackets of each image are, as a share; 0 where they overlap."""
    both = (found.status == "found") & (paper.status == "found")
    low = np.maximum(found.bracket_low, paper.bracket_low)[both]
    high = np.minimum(found.bracket_high, paper.bracket_high)[both]
    return np.maximum(low / high - 1, 0)


def once(benchmark, call):
    return benchmark.pedantic(call, rounds=1, iterations=1, warmup_rounds=0)


def report(benchmark, capsys, **numbers):
    benchmark.extra_info.update(numbers, torch_threads=torch.get_num_threads())
    with capsys.disabled():
        print("", *(f"  {name}: {value}" for name, value in numbers.items()), sep="\n")


def test_evaluations_against_the_papers_search(benchmark, capsys, example):
    model, x, y = example
    engine = rc.Engine(model, compile=True, progress=False)
    paper = rc.sigma_at_error_rate(engine, x, RATE, y, method="bisection")
    found = once(benchmark, lambda: rc.sigma_at_error_rate(engine, x, RATE, y, method="quantile"))
    overlap, apart = agree(found, paper)
    assert overlap >= 0.98
    assert apart <= 0.05
    per_image = found.n_forward[found.status == "found"]
    report(
        benchmark,
        capsys,
        ratio_of_evaluations=round(paper.n_forward.sum() / found.n_forward.sum(), 2),
        evaluations_paper=int(paper.n_forward.sum()),
        evaluations_quantile=int(found.n_forward.sum()),
        evaluations_quantile_median=float(np.median(per_image)),
        evaluations_quantile_largest=int(per_image.max()),
        brackets_that_overlap=overlap,
        largest_gap_between_brackets=apart,
        gaps_above_5_percent=int((gaps(found, paper) > 0.05).sum()),
    )


def test_wall_time_against_plain_torch(benchmark, capsys, example):
    model, x, y = example
    found = once(
        benchmark,
        lambda: rc.sigma_at_error_rate(rc.Engine(model, compile=True, progress=False), x, RATE, y),
    )
    compiling = found.provenance.compile_seconds
    eager = rc.sigma_at_error_rate(rc.Engine(model, compile=False, progress=False), x, RATE, y)
    start = time.perf_counter()
    sigma = np.array([plain_sigma(model, x[i : i + 1], y[i]) for i in range(IMAGES)])
    plain = time.perf_counter() - start
    both = (sigma > 0) & (found.status == "found")
    # other draws: agreement within the interval for most, and no trend
    inside = (found.sigma_low[both] <= sigma[both]) & (sigma[both] <= found.sigma_high[both])
    assert inside.mean() > 0.8
    assert abs(np.median(found.sigma[both] / sigma[both]) - 1) < 0.02
    report(
        benchmark,
        capsys,
        ratio_of_time=round(plain / (found.provenance.seconds - compiling), 2),
        ratio_of_time_with_compilation=round(plain / found.provenance.seconds, 2),
        ratio_of_time_eager=round(plain / eager.provenance.seconds, 2),
        seconds_plain=round(plain, 1),
        seconds_quantile_compiled=round(found.provenance.seconds - compiling, 1),
        seconds_quantile_eager=round(eager.provenance.seconds, 1),
        seconds_compiling=round(compiling, 1),
    )


def _rounds(found):
    """Rounds of the paper's search over all images, by following it to each sigma."""
    rounds = 0
    for sigma in found.sigma[found.status == "found"]:
        low, high, guess = 0.0, 1.0, 0.1
        while high - low > 0.001:
            rounds += 1
            if sigma <= guess:
                high, guess = guess, (low + guess) / 2
            else:
                low, guess = guess, min(2 * guess, (guess + high) / 2)
    return rounds


def test_time_outside_the_forward_pass(benchmark, capsys, example):
    model, x, y = example
    compiled = torch.compile(model, dynamic=True, options={"freezing": True})
    with torch.no_grad():
        for n in (128, 64, 16):
            compiled(x[:1].expand(n, -1, -1, -1).contiguous(memory_format=torch.channels_last))
    ours = Timed(compiled)
    engine = rc.Engine(ours, compile=False, progress=False)
    call = lambda: rc.sigma_at_error_rate(engine, x, RATE, y)  # noqa: E731
    call()
    ours.seconds, ours.images = 0.0, 0
    found = once(benchmark, call)
    outside = found.provenance.seconds - ours.seconds

    theirs = Timed(model)
    start = time.perf_counter()
    for i in range(5):
        plain_sigma(theirs, x[i : i + 1], y[i])
    outside_plain = time.perf_counter() - start - theirs.seconds
    # what the paper's search takes for all images: 8 rounds of 1,000 for most
    evaluations = SAMPLES * _rounds(found)
    per_image, per_image_plain = outside / ours.images, outside_plain / theirs.images
    report(
        benchmark,
        capsys,
        share_outside=round(outside / found.provenance.seconds, 4),
        microseconds_outside=round(1e6 * per_image, 2),
        microseconds_outside_plain=round(1e6 * per_image_plain, 2),
        share_of_plain_an_evaluation=round(per_image / per_image_plain, 3),
        share_of_plain_in_all=round(outside / (per_image_plain * evaluations), 3),
        microseconds_forward=round(1e6 * ours.seconds / ours.images, 1),
    )


def test_evaluations_with_rtol(benchmark, capsys, example):
    model, x, y = example
    engine = rc.Engine(model, compile=True, progress=False)
    found = once(benchmark, lambda: rc.sigma_at_error_rate(engine, x, RATE, y, rtol=0.05))
    # the truth, from five times as many draws under another seed: does the interval hold it?
    truth = rc.sigma_at_error_rate(engine, x, RATE, y, samples=5_000, seed=1)
    right = found.status == "found"
    holds = (found.sigma_low <= truth.sigma_high) & (truth.sigma_low <= found.sigma_high)
    centre = (found.sigma_low <= truth.sigma) & (truth.sigma <= found.sigma_high)
    early = right & (found.n_samples < SAMPLES)
    report(
        benchmark,
        capsys,
        evaluations_median=statistics.median(found.n_forward[right].tolist()),
        evaluations_mean=round(float(found.n_forward[right].mean()), 1),
        stopped_early=int(early.sum()),
        early_intervals_that_hold_the_truth=int(centre[early].sum()),
        early_intervals_that_meet_its_interval=int(holds[early].sum()),
        all_intervals_that_hold_the_truth=int(centre[right].sum()),
        images=int(right.sum()),
    )
