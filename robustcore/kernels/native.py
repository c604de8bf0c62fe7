"""The kernels in C++ (csrc/), on CPU. Contracts are in `robustcore.kernels`.

Tensors are passed as addresses, so what would reach outside their memory is refused here. The
number of threads is torch's, `torch.get_num_threads()`; it changes no result. `isa` names an
instruction set from `ISAS` for tests; by default the best this machine runs.
"""

import torch
from torch import Tensor

from robustcore import _native
from robustcore.kernels import LAWS, checks

ISAS: tuple[str, ...] = tuple(_native.isas())
DEVICE = "cpu"


def philox(counter: Tensor, key: tuple[int, int], *, isa: str = "") -> Tensor:
    checks.tensor("counter", counter, torch.int64, (len(counter), 4), DEVICE)
    words = torch.empty_like(counter)
    _native.philox(counter.data_ptr(), len(counter), key, words.data_ptr(), isa)
    return words


def perturb(
    x: Tensor,
    rows: Tensor,
    sigma: Tensor,
    samples: Tensor,
    ids: Tensor,
    out: Tensor,
    *,
    seed: int,
    stream: int = 0,
    law: str = "gaussian",
    levels: tuple[float, float] | None = None,
    clip: tuple[float, float] | None = None,
    mean: Tensor | None = None,
    inv_std: Tensor | None = None,
    isa: str = "",
) -> Tensor:
    interleaved = checks.perturbed(x, rows, sigma, samples, ids, out, mean, inv_std, DEVICE)
    batch, channels, height, width = x.shape
    _native.perturb(
        x.data_ptr(),
        rows.data_ptr(),
        sigma.data_ptr(),
        samples.data_ptr(),
        ids.data_ptr(),
        out.data_ptr(),
        (len(rows), batch, channels, height * width),
        interleaved,
        seed,
        stream,
        LAWS.index(law),
        levels,
        clip,
        0 if mean is None else mean.data_ptr(),
        0 if inv_std is None else inv_std.data_ptr(),
        torch.get_num_threads(),
        isa,
    )
    return out


def _logits(logits: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    logits = checks.judged(logits, labels, rows, DEVICE)
    return logits, (*logits.shape, logits.stride(0), len(labels))


def margins(logits: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    logits, sizes = _logits(logits, labels, rows)
    margin = torch.empty(len(rows), dtype=logits.dtype, device=DEVICE)
    runner_up = torch.empty(len(rows), dtype=torch.int64, device=DEVICE)
    body = _native.margins_float32 if logits.dtype == torch.float32 else _native.margins_float64
    body(
        logits.data_ptr(),
        sizes,
        labels.data_ptr(),
        rows.data_ptr(),
        margin.data_ptr(),
        runner_up.data_ptr(),
        torch.get_num_threads(),
    )
    return margin, runner_up


def count_errors(logits: Tensor, labels: Tensor, rows: Tensor, counts: Tensor) -> None:
    logits, sizes = _logits(logits, labels, rows)
    checks.tensor("counts", counts, torch.int64, (len(labels),), DEVICE)
    single = logits.dtype == torch.float32
    body = _native.count_errors_float32 if single else _native.count_errors_float64
    body(
        logits.data_ptr(),
        sizes,
        labels.data_ptr(),
        rows.data_ptr(),
        counts.data_ptr(),
        torch.get_num_threads(),
    )


def _ball(
    x: Tensor, rows: Tensor, norm: float, **points: Tensor
) -> tuple[int, int, tuple[int, int, int], bool]:
    """The arguments that steps in balls share."""
    checks.balls(x, rows, DEVICE, **points)
    return x.data_ptr(), rows.data_ptr(), (len(rows), *x.shape), norm == 2


def random_start(
    radius: Tensor,
    restarts: Tensor,
    ids: Tensor,
    out: Tensor,
    *,
    norm: float,
    seed: int,
    stream: int = 1,
    isa: str = "",
) -> Tensor:
    slots, elements = out.shape
    checks.slots(slots, DEVICE, radius=radius, restarts=restarts, ids=ids)
    checks.tensor("out", out, torch.float32, (slots, elements), DEVICE)
    _native.random_start(
        radius.data_ptr(),
        restarts.data_ptr(),
        ids.data_ptr(),
        out.data_ptr(),
        slots,
        elements,
        norm == 2,
        seed,
        stream,
        torch.get_num_threads(),
        isa,
    )
    return out


def ball_step(
    x: Tensor,
    rows: Tensor,
    offset: Tensor,
    gradient: Tensor,
    scale: Tensor,
    step: Tensor,
    radius: Tensor,
    points: Tensor,
    *,
    norm: float,
    box: tuple[float, float] | None = None,
    sphere: bool = False,
    isa: str = "",
) -> Tensor:
    shared = _ball(x, rows, norm, offset=offset, gradient=gradient, points=points)
    checks.slots(len(rows), DEVICE, scale=scale, step=step, radius=radius)
    usable = torch.empty(len(rows), dtype=torch.bool, device=DEVICE)
    _native.ball_step(
        *shared,
        box,
        offset.data_ptr(),
        gradient.data_ptr(),
        scale.data_ptr(),
        step.data_ptr(),
        radius.data_ptr(),
        points.data_ptr(),
        sphere,
        usable.data_ptr(),
        torch.get_num_threads(),
        isa,
    )
    return usable


def ball_slope(
    x: Tensor,
    rows: Tensor,
    offset: Tensor,
    gradient: Tensor,
    *,
    norm: float,
    box: tuple[float, float] | None = None,
    isa: str = "",
) -> Tensor:
    shared = _ball(x, rows, norm, offset=offset, gradient=gradient)
    slope = torch.empty(len(rows), 2, dtype=torch.float64, device=DEVICE)
    threads = torch.get_num_threads()
    addresses = offset.data_ptr(), gradient.data_ptr(), slope.data_ptr()
    _native.ball_slope(*shared, box, *addresses, threads, isa)
    return slope


def update_best(
    x: Tensor,
    rows: Tensor,
    points: Tensor,
    margin: Tensor,
    distance: Tensor,
    best: Tensor,
    *,
    norm: float,
    isa: str = "",
) -> Tensor:
    shared = _ball(x, rows, norm, points=points, best=best)
    margin, away = margin.double(), torch.empty_like(distance)
    for name, each in (("margin", margin), ("distance", distance)):
        checks.tensor(name, each, torch.float64, (len(rows),), DEVICE)
    _native.update_best(
        *shared,
        points.data_ptr(),
        margin.data_ptr(),
        distance.data_ptr(),
        best.data_ptr(),
        away.data_ptr(),
        torch.get_num_threads(),
        isa,
    )
    return away
