"""A model and how it is run: set up once, used by every measurement."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from robustcore import errors, inputs
from robustcore.arguments import function, integer, optional_choice, optional_flag
from robustcore.errors import Criterion
from robustcore.fused import Fused, agrees, fuse
from robustcore.kernels import BACKENDS, Backend, select
from robustcore.network import USUAL_COMPILED, Model, Network
from robustcore.noise import Gaussian, Noise
from robustcore.precision import PRECISIONS, Coarse, checked

BATCH_PIXELS = {"cpu": 3 * 2**17, "cuda": 2**24}
LEAST_BATCH = 4  # photos of 224 x 224, 2 cores: 1.3 times as fast as 2 at a time (two networks)
MOST_BATCH = 2**22  # slots of a round, of which a batch is a part

Interval = tuple[float, float]


class Engine:
    """A model and how it is run. Every measurement takes an engine where it takes a model.

        engine = rc.Engine(net, compile=True, progress=False)
        rc.error_rate(engine, x, [0.05, 0.1], y)
        rc.distance_to_error(engine, x, y)

    A measurement of a bare model makes an engine for that call alone. What an engine finds out
    about its model is kept for later calls: the memory format that it likes best, whether it judges
    each image by itself, its compiled form, and a small network's fused form. The numbers are those
    of a new engine, whatever was measured before, up to the model's own rounding.

    model: any callable from (S, *shape) to (S, K) logits, a tensor or an object with .logits, in
        evaluation mode, on the device of the inputs. It is given inputs in the type of its
        parameters, where they share one, else in that of x.
    error: what an error is (robustcore.errors). "top1": the label is not the largest of at least
        two logits; `TopK(k)`, `AnyOf()` for several right labels, `OneLogit(threshold)`,
        `Tolerance(atol, norm)`, or a function of (outputs (S, ...), y (S, ...)) to margins (S,)
        that are positive where the model is right. y has the form that the error needs.
    shape: of one input; None: that of x without its first dimension. It distinguishes one input
        from several; without it x[None] is one input, and so is a picture (C, H, W) of 1 or 3
        channels for a module with 2-D convolutions.
    device: where inputs are put before they are measured, as the model is; None: they stay where
        they are, and what is read goes to the parameters of the model.
    batch_size: images evaluated together, at least 1; None chooses by their size and the device.
        Halved, with a note in the record, where memory runs out.
    block: images measured at a time of a set that is read, in a run, and in a process group; None
        chooses by their size and number.
    backend: of the kernels, "reference", "native", "triton" or "cuda"; None takes the fastest. All
        give the same bits.
    compile: True compiles the model by torch.compile, False does not, None where it pays.
    precision: "bfloat16" or, on a GPU, "tf32" evaluates draws of noise in lower precision, and once
        more as the model is where the lead of the class it names is within twice the largest
        rounding measured: counts stay those of the model as it is (robustcore.precision). Attacks
        and rare errors use the model as it is.
    pixels: (low, high), where images should lie. A PixelRangeWarning warns of those that do not, by
        more than a hundredth of that range, and of noise above it; None: any range.
    progress: whether a bar is shown; None: on a terminal.

    The first measurement sets the engine up, for images of that shape, type and device: later ones
    of others are refused by a ValueError. Parameters, buffers and modes of a module may change
    between two calls; what depends on them is then set up again. An engine serves one thread at a
    time; a call from another raises RuntimeError. Raises TypeError or ValueError naming the
    argument.

    Cost: 14 evaluations in the first measurement, which see that the model judges each image by
    itself, and 4 more at each batch larger than all before. Records count them, but for those of a
    set that is cut into blocks.
    """

    def __init__(
        self,
        model: Model,
        *,
        error: str | Criterion | Callable[[Tensor, Tensor], Tensor] = "top1",
        shape: Sequence[int] | None = None,
        device: torch.device | str | None = None,
        batch_size: int | None = None,
        block: int | None = None,
        backend: str | None = None,
        compile: bool | None = None,
        precision: str | None = None,
        pixels: Interval | None = (0.0, 1.0),
        progress: bool | None = None,
    ) -> None:
        if isinstance(model, Engine):
            raise TypeError("model must be a model, was an Engine, which holds one already")
        function("model", model)
        self.model = model
        self.error = errors.of(error)
        self.shape = None if shape is None else inputs.input_shape(shape)
        self.device = None if device is None else inputs.device("device", device)
        self.asked_batch = None if batch_size is None else integer("batch_size", batch_size, 1)
        self.block = None if block is None else integer("block", block, 1)
        self.backend = optional_choice("backend", backend, BACKENDS)
        self.compile = optional_flag("compile", compile)
        self.precision = optional_choice("precision", precision, PRECISIONS)
        self.ranges = inputs.Ranges(pixels)
        self.progress = optional_flag("progress", progress)
        self.notes: list[str] = []  # of every record from now on
        self._lock = threading.RLock()
        self._depth = 0  # of calls within calls
        self._whole: int | None = None  # images of the set of which parts are measured
        self._most_batch = MOST_BATCH
        self._setup: _Setup | None = None
        self._checked: Tensor | None = None  # images of the call that is under way

    @staticmethod
    def of(model: Model | Engine) -> Engine:
        """An engine as it is; one for a bare model."""
        return model if isinstance(model, Engine) else Engine(model)

    def __repr__(self) -> str:
        made = self._setup
        where = "" if made is None else f" for {tuple(made.shape)} {made.dtype} on {made.device}"
        return f"Engine({type(self.model).__name__}{where})"

    @property
    def settings(self) -> dict[str, Any]:
        """What it was asked to be, as a run keeps it."""
        names = ("backend", "compile", "precision", "error", "shape")
        return {"batch_size": self.asked_batch} | {name: getattr(self, name) for name in names}

    # -- calls ---------------------------------------------------------------------------------

    @contextmanager
    def used(self) -> Iterator[None]:
        """A public call; one within another is a part of it. RuntimeError for two threads."""
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                "model must be an Engine that no other thread is using: make one for each thread"
            )
        try:
            if self._depth == 0:
                self.ranges.begin()
            self._depth += 1
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._checked = None
            self._lock.release()

    @property
    def within_set(self) -> bool:
        """Whether what is measured now is a part of a set."""
        return self._whole is not None

    @contextmanager
    def part_of(self, images: int | None = None) -> Iterator[None]:
        """Within this, calls show no bar: they are parts of one of so many images in all.

        Whether compiling pays is decided for all of them.
        """
        before = self.progress, self._whole
        self.progress, self._whole = False, images or self._whole
        try:
            yield
        finally:
            self.progress, self._whole = before

    # -- set-up ----------------------------------------------------------------------------------

    def images(self, x: Any) -> Tensor:
        """x as a batch (B, *shape) in the type of the model, checked; warns if out of range."""
        if self._checked is not None and x is self._checked:
            return self._checked
        batch = inputs.images(x, self.model, self.shape_of())
        self.ranges.see_images(batch)
        batch = batch if self.device is None else batch.to(self.device)
        if self._depth > 0:
            self._checked = batch
        return batch

    def shape_of(self, batch: Any = None) -> Sequence[int] | None:
        """Of one input, where it is known: from the set-up, a floating-point batch, the caller."""
        if self._setup is not None and self._setup.complete:
            return self._setup.shape
        known = isinstance(batch, Tensor) and batch.is_floating_point()
        return tuple(batch.shape[1:]) if known else self.shape

    def largest_scale(self, noise: Noise, asked: float | None, x: Tensor) -> float:
        """Where a search for a scale ends: as asked, the law's largest, or the span of pixels."""
        if asked is not None:
            return asked
        if noise.largest is not None:
            return noise.largest
        if self.ranges.pixels is not None:
            low, high = self.ranges.pixels
            return high - low
        least, most = (float(end) for end in torch.aminmax(x))
        return most - least or 1.0

    def bind(self, images: Tensor) -> None:
        """Set up for such images, unless that is done. Raises ValueError for other images."""
        made = self._setup
        if made is not None and made.complete:
            made.refuse_other(images)
            made.network.check()
            made.follow(_state(self.model))
            return
        device, dtype = inputs.float64(images.device), images.dtype
        pixels = BATCH_PIXELS.get(device.type, 2**24) // images[0].numel()
        usual = min(8192, max(LEAST_BATCH, 1 << max(0, pixels.bit_length() - 1)))
        self._setup = _Setup(
            shape=images.shape[1:],
            device=device,
            dtype=dtype,
            lower=checked(self.precision, device, dtype),
            usual_batch=usual,
            batch_size=min(
                usual if self.asked_batch is None else self.asked_batch, self._most_batch
            ),
            kernels=select(self.backend, device),
            network=Network(self.model, device, dtype, images.shape[1:], self.error),
            state=_state(self.model),
        )

    @property
    def setup(self) -> _Setup:
        assert self._setup is not None, "bind comes first"
        return self._setup

    def limit_batch(self, size: int) -> None:
        """No batch is larger from now on."""
        self._most_batch = size
        if self._setup is not None:
            self._setup.batch_size = min(self._setup.batch_size, size)

    def halve_batch(self) -> str:
        """Where memory ran out; returns the note for records."""
        size = self.setup.batch_size // 2
        self.limit_batch(size)
        self.notes.append(f"out of memory: batch size halved to {size}")
        return self.notes[-1]

    def compiled_for(self, planned: int, images: Tensor) -> tuple[bool, float]:
        """(whether the compiled form is to be used for `planned` evaluations, seconds to make it).

        images: those of the call, in the memory format of the model.
        """
        made = self.setup
        wanted = self.compile
        if wanted is None:
            times = 1.0 if self._whole is None else self._whole / len(images)
            wanted = made.network.pays(planned * times, images[:1])
        if not wanted:
            return False, 0.0
        batch = min(made.batch_size, planned or USUAL_COMPILED)
        return made.network.compile(images[:1], batch, must=self.compile is True)

    def fused_for(self, noise: Noise, x: Tensor, logits: Tensor, ranges: Tensor) -> Fused | None:
        """The network in one kernel with its noise, where it is small enough to be one.

        None where that does not reproduce the model's own `logits` (B, K) of images x.
        """
        pictures = len(self.setup.shape) == 3
        plain = isinstance(noise, Gaussian) and self.error is None and pictures
        if self.compile is True or not plain:
            return None
        made, clip = self.setup, noise.clip
        if clip not in made.fused:
            made.fused[clip] = fuse(
                made.network.model, tuple(made.shape), made.device, made.dtype,
                made.kernels.name, clip,
            )  # fmt: skip
        fused = made.fused[clip]
        return fused if fused is not None and agrees(fused, x, logits, ranges) else None

    def coarse(self) -> Coarse | None:
        """The lower precision that was asked for, its rounding not yet measured."""
        made = self.setup
        return None if made.lower is None else Coarse(made.lower, made.device)


@dataclass
class _Setup:
    """What an engine has found out about its model, for images of one shape, type and device."""

    shape: torch.Size  # of one input
    device: torch.device
    dtype: torch.dtype
    lower: str | None  # precision
    usual_batch: int
    batch_size: int
    kernels: Backend
    network: Network
    state: tuple[Any, ...]  # modes, parameters and buffers of the model
    fused: dict[Interval | None, Fused | None] = field(default_factory=dict)  # by clip
    probes: dict[Interval | None, Any] = field(default_factory=dict)  # by box
    complete: bool = False  # a first call has seen the model's answers

    def refuse_other(self, images: Tensor) -> None:
        mine = tuple(self.shape), self.dtype, self.device
        its = tuple(images.shape[1:]), images.dtype, images.device
        if mine != its:
            texts = (f"{shape} in {dtype} on {device}" for shape, dtype, device in (mine, its))
            was, now = texts
            raise ValueError(
                f"x must be images like those that the engine was set up for, {was}, was {now}: "
                "make another Engine"
            )

    def follow(self, state: tuple[Any, ...]) -> None:
        """Forget what depends on modes, parameters and buffers that have changed."""
        if state == self.state:
            return
        self.state = state
        self.fused.clear()
        self.probes.clear()
        self.network.forget_compiled()


def _state(model: Model) -> tuple[Any, ...]:
    """What shows that a module has changed: its modes, its parameters and its buffers."""
    if not isinstance(model, nn.Module):
        return ()
    modules, parameters, buffers = inputs.tensors_of(model)
    modes = tuple(module.training for module in modules)
    return modes, tuple(map(_version, (*parameters, *buffers)))


def _version(tensor: Tensor) -> tuple[int, int, str]:
    """Where its values lie, how often they were written, and their sum.

    Writes through `.data` are counted nowhere.
    """
    try:
        total = str(float(tensor.detach().sum(dtype=torch.float64)))  # in words NaN equals itself
        return tensor.data_ptr(), tensor._version, total
    except (RuntimeError, ValueError):  # of inference mode, not yet made, of a class without memory
        return id(tensor), 0, ""
