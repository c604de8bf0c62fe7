"""The kernels in C++ (csrc/), on CPU. Contracts are in `robustcore.kernels`.

Tensors are passed as addresses, so what would reach outside their memory is refused here. The
number of threads is torch's, `torch.get_num_threads()`; it changes no result. `isa` names an
instruction set from `ISAS` for tests; by default the best this machine runs.
"""

import torch
from torch import Tensor

from robustcore import _native

ISAS: tuple[str, ...] = tuple(_native.isas())


def _check(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape or tensor.device.type != "cpu":
        raise ValueError(
            f"{name} must be {dtype} of shape {shape} on cpu; "
            f"got {tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}"
        )
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous; got strides {tensor.stride()}")


def philox(counter: Tensor, key: tuple[int, int], *, isa: str = "") -> Tensor:
    _check("counter", counter, torch.int64, (len(counter), 4))
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
    clip: tuple[float, float] | None = None,
    mean: Tensor | None = None,
    inv_std: Tensor | None = None,
    isa: str = "",
) -> Tensor:
    batch, channels, height, width = x.shape
    slots = len(rows)
    _check("x", x, torch.float32, (batch, channels, height, width))
    _check("rows", rows, torch.int64, (slots,))
    _check("sigma", sigma, torch.float32, (slots,))
    _check("samples", samples, torch.int64, (slots,))
    _check("ids", ids, torch.int64, (batch,))
    interleaved = not out.is_contiguous()
    if interleaved and not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"out must be contiguous or channels_last; got strides {out.stride()}")
    flat = out.permute(0, 2, 3, 1) if interleaved else out
    shape = (slots, height, width, channels) if interleaved else (slots, *x.shape[1:])
    _check("out", flat, torch.float32, shape)
    if (mean is None) != (inv_std is None):
        raise ValueError("mean and inv_std must be given together")
    if mean is not None and inv_std is not None:
        _check("mean", mean, torch.float32, (channels,))
        _check("inv_std", inv_std, torch.float32, (channels,))
    _native.perturb(
        x.data_ptr(),
        rows.data_ptr(),
        sigma.data_ptr(),
        samples.data_ptr(),
        ids.data_ptr(),
        out.data_ptr(),
        (slots, batch, channels, height * width),
        interleaved,
        seed,
        stream,
        clip,
        0 if mean is None else mean.data_ptr(),
        0 if inv_std is None else inv_std.data_ptr(),
        torch.get_num_threads(),
        isa,
    )
    return out


def _logits(logits: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    slots, classes = logits.shape
    if classes < 2 or logits.device.type != "cpu":
        raise ValueError(
            f"logits must be (S, K >= 2) on cpu; got {tuple(logits.shape)} on {logits.device}"
        )
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    _check("labels", labels, torch.int64, (len(labels),))
    _check("rows", rows, torch.int64, (slots,))
    return logits, (slots, classes, logits.stride(0), len(labels))


def margins(logits: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    logits, sizes = _logits(logits, labels, rows)
    margin = torch.empty(len(rows), dtype=logits.dtype)
    runner_up = torch.empty(len(rows), dtype=torch.int64)
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
    _check("counts", counts, torch.int64, (len(labels),))
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
    x: Tensor, rows: Tensor, norm: float, **slots: Tensor
) -> tuple[int, int, tuple[int, int, int], bool]:
    """The arguments that steps in balls share; each of `slots` is a row of floats for each slot."""
    batch, elements = x.shape
    _check("x", x, torch.float32, (batch, elements))
    _check("rows", rows, torch.int64, (len(rows),))
    for name, tensor in slots.items():
        _check(name, tensor, torch.float32, (len(rows), elements))
    return x.data_ptr(), rows.data_ptr(), (len(rows), batch, elements), norm == 2


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
    _check("radius", radius, torch.float32, (slots,))
    _check("restarts", restarts, torch.int64, (slots,))
    _check("ids", ids, torch.int64, (slots,))
    _check("out", out, torch.float32, (slots, elements))
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
    for name, tensor in (("scale", scale), ("step", step), ("radius", radius)):
        _check(name, tensor, torch.float32, (len(rows),))
    usable = torch.empty(len(rows), dtype=torch.bool)
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
    slope = torch.empty(len(rows), 2, dtype=torch.float64)
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
    _check("margin", margin, torch.float64, (len(rows),))
    _check("distance", distance, torch.float64, (len(rows),))
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
