"""perturb against `x + sigma * torch.randn_like(x)`, on CPU, at each instruction set.

    OMP_WAIT_POLICY=passive pytest benchmarks/bench_perturb.py --benchmark-only

Each case first checks its result against the reference, bit for bit, so no speed is printed for a
wrong answer; then kernel and plain torch take turns in one process, so that both meet the same
machine. The ratio is that of the medians. Bytes are those that must move: x read, out written.
"""

import statistics
import time

import pytest
import torch

from robustcore.kernels import native, reference

SLOTS, IMAGES, SHAPE = 500, 50, (3, 32, 32)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def seconds(call, repeats=60):
    """Times of single calls, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("isa", native.ISAS)
def test_perturb(benchmark, capsys, isa, layout, threads):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(IMAGES, *SHAPE, generator=generator)
    rows = torch.arange(SLOTS) % IMAGES
    sigma = torch.full((SLOTS,), 0.1)
    arguments = (x, rows, sigma, torch.arange(SLOTS), torch.arange(IMAGES))
    out = torch.empty(SLOTS, *SHAPE).contiguous(memory_format=FORMATS[layout]).fill_(torch.nan)
    call = lambda: native.perturb(*arguments, out, seed=1, isa=isa)  # noqa: E731
    assert torch.equal(call(), reference.perturb(*arguments, torch.empty_like(out), seed=1))

    repeated = x[rows].contiguous(memory_format=FORMATS[layout])
    plain = lambda: repeated + 0.1 * torch.randn_like(repeated)  # noqa: E731
    ours, torchs = [], []
    for _ in range(3):
        ours.append(seconds(call, 20))
        torchs.append(seconds(plain, 20))
    benchmark.pedantic(call, rounds=40, warmup_rounds=2)

    median = statistics.median(ours)
    normals = out.numel() / median
    ratio = statistics.median(torchs) / median
    benchmark.extra_info.update(
        isa=isa,
        layout=layout,
        threads=threads,
        torch=torch.__version__,
        million_normals_per_second=round(normals / 1e6),
        gigabytes_per_second=round(8 * normals / 1e9, 2),
        ratio_to_torch=round(ratio, 2),
    )
    with capsys.disabled():
        print(
            f"\n{isa}, {layout}, threads {threads}: {normals / 1e6:.0f} million normals/s, "
            f"{8 * normals / 1e9:.1f} GB/s, {ratio:.1f} times as fast as plain torch"
        )


def test_two_threads_against_one(benchmark, capsys):
    """Scaling of perturb alone; meaningful on a machine with two idle cores."""
    x = torch.rand(IMAGES, *SHAPE, generator=torch.Generator().manual_seed(0))
    rows, sigma = torch.arange(SLOTS) % IMAGES, torch.full((SLOTS,), 0.1)
    arguments = (x, rows, sigma, torch.arange(SLOTS), torch.arange(IMAGES))
    out = torch.empty(SLOTS, *SHAPE)
    call = lambda: native.perturb(*arguments, out, seed=1)  # noqa: E731
    before = torch.get_num_threads()
    medians: dict[int, list[float]] = {1: [], 2: []}
    expected = call().clone()
    for _ in range(5):
        for threads, times in medians.items():
            torch.set_num_threads(threads)
            times.append(seconds(call, 30))
            assert torch.equal(out, expected)
    benchmark.pedantic(call, rounds=40, warmup_rounds=2)
    torch.set_num_threads(before)
    ratio = statistics.median(medians[1]) / statistics.median(medians[2])
    benchmark.extra_info["two_threads_to_one"] = round(ratio, 2)
    with capsys.disabled():
        print(f"\ntwo threads to one: {ratio:.2f}")
