"""A whole set, block by block: any measurement of a few images, made one of all that there are."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from robustcore import inputs
from robustcore.engine import BATCH_PIXELS, Engine
from robustcore.provenance import bar
from robustcore.results import Record
from robustcore.runs import ranks
from robustcore.runs.behaviour import behaviour
from robustcore.runs.identity import of_model, plain, versions
from robustcore.runs.rows import Rows, record_of, rows_of
from robustcore.runs.store import Store
from robustcore.sources import Source, digest, labels_of, open_source

P = ParamSpec("P")
R = TypeVar("R", bound=Record)

SMALLEST, LARGEST = 4, 256  # images in a block, unless a measurement says otherwise
SHARE = 128  # a block is this part of what is left, so that ranks finish together
PER_BATCH = 8  # batch slots to an image of the largest block

_names: ContextVar[tuple[str, ...]] = ContextVar("names", default=())


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Within this, what is measured is kept under this name too, as one function may be many times.

    A run holds one measurement of each function and name, such as those of one model of several.
    """
    token = _names.set((*_names.get(), name))
    try:
        yield
    finally:
        _names.reset(token)


def by_blocks(
    per_image: Mapping[str, int] | None = None,
    *,
    smallest: int = SMALLEST,
    per_batch: int = PER_BATCH,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For a function of (model, x, y, ids=, run=, ...) whose record is image by image.

    The function is given an engine for its model, made here of a bare one.

    A tensor alone, without `run` and outside a process group, goes straight to the function.
    Anything else is cut into blocks of images that are measured one by one, by as many processes
    as there are, and kept in a `Store`.

    per_image: other arguments that may have an entry for each image, with their dimensions if so; a
    record has one always. smallest: images in a block, where there are as many. per_batch: slots of
    a batch for each image of the largest block; 1 where a batch holds an image once.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def measured(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            bound.apply_defaults()
            given = bound.arguments
            engine = given["model"] = Engine.of(given["model"])
            if given["run"] is not None:
                inputs.path("run", given["run"])
            cut = engine.block is not None and not engine.within_set
            asked = given["run"] is not None or cut
            read = not isinstance(given["x"], Tensor) or given["x"].dtype == torch.uint8
            # gradients work and numpy warns as it does by default, whatever the caller's modes
            with (
                torch.inference_mode(False),
                np.errstate(all="warn", under="ignore"),
                engine.used(),
            ):
                if asked or read or ranks.grouped():
                    whole = _Whole(function, given, per_image or {}, smallest, per_batch)
                    return cast(R, whole.record())
                return function(*bound.args, **bound.kwargs)

        return measured

    return decorate


class _Whole:
    """One call of a measurement on a whole set."""

    def __init__(
        self,
        function: Callable[..., Record],
        given: dict[str, Any],
        per_image: Mapping[str, int],
        smallest: int,
        per_batch: int,
    ) -> None:
        self.function = function
        self.arguments = dict(given)
        self.run, y, ids = (self.arguments.pop(name) for name in ("run", "y", "ids"))
        self.engine, x = self.arguments.pop("model"), self.arguments.pop("x")
        model = self.engine.model
        if isinstance(x, Tensor) and x.is_floating_point():
            x = self.engine.images(x)
        self.source = open_source(x, y, model, self.engine.shape_of(x))
        n = self.source.n
        error = self.engine.error
        if error is None:
            self.y = labels_of(self.source, y)
        else:
            self.y = None if y is None else error.answers(y, n, torch.device("cpu"))
        self.ids = inputs.identifiers(ids, n, torch.device("cpu"))
        self.per_image = {
            name: _entries(self.arguments.pop(name))
            for name, dims in per_image.items()
            if _has_entries(self.arguments[name], dims, n)
        }
        there = x.device if isinstance(x, Tensor) else _device(model)
        device = self.engine.device or there
        block = self.engine.block
        batch = self.engine.asked_batch
        largest = block or max(smallest, _largest(batch, self.source, device, per_batch))
        self.spans = spans(n, largest, smallest if block is None else None)
        self.identity = {
            "function": ", ".join((function.__name__, *_names.get())),
            "model": of_model(model),
            "x": self.source.about,
            "y": None if self.y is None else digest(self.y),
            "ids": None if ids is None else digest(self.ids),
            **{name: _kept(name, value) for name, value in self.engine.settings.items()},
            **{name: _kept(name, value) for name, value in self.arguments.items()},
            **{name: _kept(name, value) for name, value in self.per_image.items()},
            "block": largest if block else f"at most {largest}",
            "device": device.type,
            **versions(),
        }

    def record(self) -> Record:
        crew = ranks.join()
        with contextlib.ExitStack() as stack:
            store = stack.enter_context(_led(crew, self.run))
            crew.agree(self.identity)
            does = None
            if self.run is not None or crew.size > 1:
                does = crew.tried(lambda: behaviour(self.engine, self.source))
                crew.behave(does)

            def begin() -> tuple[list[int], int | None]:
                assert store is not None
                store.begin(self.identity, self.source.n, crew.size, does)
                return sorted(store.blocks_done()), store.batch_size()

            done, batch_size = crew.led(begin)
            if batch_size is not None:  # memory ran out before
                self.engine.limit_batch(batch_size)
            todo = sorted(set(range(len(self.spans))) - set(done))
            shown = stack.enter_context(
                bar(self.source.n, "images", self.engine.progress if crew.rank == 0 else False)
            )
            shown.initial = shown.n = sum(b - a for a, b in (self.spans[k] for k in done))
            spent = 0

            def write(block: int, rank: int, rows: Rows) -> None:
                nonlocal spent
                assert store is not None
                store.commit(block, self.spans[block][0], rank, rows)
                spent += rows.evaluations
                seconds = max(1e-9, shown.format_dict["elapsed"])
                shown.set_postfix_str(f"{spent / seconds:,.0f} evaluations/s", refresh=False)
                shown.update(len(rows.data))

            stopping = stack.enter_context(_interrupts(self.run is not None, crew.rank == 0))
            try:
                crew.measure(todo, self._block, write, stopping)
            except ranks.Stopped:
                raise KeyboardInterrupt(
                    f"the images measured so far are in {self.run}: go on with `robustcore resume "
                    f"{self.run}` or the same call"
                ) from None

            def rows() -> Rows:
                assert store is not None
                return store.rows()

            return record_of(crew.given(rows))

    def _block(self, k: int) -> Rows:
        first, last = self.spans[k]
        x, y = self.source.block(first, last)
        at = slice(first, last)
        with ranks.alone(), self.engine.part_of(self.source.n):
            record = self.function(
                self.engine,
                x,
                y=y if self.y is None else self.y[at],
                ids=self.ids[at],
                **self.arguments,
                **{name: value[at] for name, value in self.per_image.items()},
            )
        return rows_of(record)


def spans(n: int, largest: int, smallest: int | None = SMALLEST) -> list[tuple[int, int]]:
    """First and last of each block of n images; the same for any number of processes.

    A block is a 128th of what is left, `smallest` images at least, so that up to 64 processes
    finish at about one time; with None all are of one size.
    """
    found, first = [], 0
    while first < n:
        size = largest if smallest is None else min(largest, max(smallest, (n - first) // SHARE))
        found.append((first, min(n, first + size)))
        first += size
    return found


def _has_entries(value: Any, dims: int, n: int) -> bool:
    if isinstance(value, Record):
        return len(value) == n
    try:
        return np.ndim(value) == dims and len(value) == n
    except Exception:  # of what is no array: the measurement refuses it by name
        return False


def _entries(value: Any) -> Any:
    """What can be cut into blocks; numbers in the machine's byte order, as torch knows them."""
    if isinstance(value, (Record, Tensor)):
        return value
    array = np.asarray(value)
    return array.astype(array.dtype.newbyteorder("="), order="C")


def _kept(name: str, value: Any) -> Any:
    """A setting as a run keeps it, seen before the measurement has looked at it."""
    try:
        return plain(value)
    except Exception:
        raise TypeError(
            f"{name} must be a setting of plain values, was {inputs.shown(value)}"
        ) from None


def _largest(batch_size: int | None, source: Source, device: torch.device, per_batch: int) -> int:
    """Images whose first round fills many batches: no more than a minute's work is in flight."""
    pixels = int(np.prod(source.shape))
    batch = batch_size or BATCH_PIXELS.get(device.type, 2**24) // pixels
    return int(min(LARGEST, max(SMALLEST, batch // per_batch)))


def _device(model: Any) -> torch.device:
    held = [*model.parameters(), *model.buffers()] if isinstance(model, torch.nn.Module) else []
    return held[0].device if held else torch.device("cpu")


@contextlib.contextmanager
def _led(crew: ranks.One | ranks.Many, run: Any) -> Iterator[Store | None]:
    """The store on rank 0, nothing on the others; an error in opening it reaches all."""
    opened: list[Store] = []
    crew.led(lambda: opened.append(Store(run)))
    try:
        yield opened[0] if opened else None
    finally:
        for store in opened:
            store.close()


@contextlib.contextmanager
def _interrupts(kept: bool, tells: bool) -> Iterator[Callable[[], bool]]:
    """Ctrl-C lets the block in flight finish where it is kept; a second one does not wait.

    Under torchrun every rank gets the signal twice, from the terminal and from its parent: there
    only the first counts.
    """
    if not kept or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        if len(asked) == 1 and tells:
            print("\nfinishing the images in flight", file=sys.stderr)
        elif len(asked) > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise KeyboardInterrupt("the images of finished blocks are kept")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
