"""The processes that measure one set together: who takes which block, and who writes it.

Ranks meet in the key-value store of torch.distributed's process group alone: a counter there hands
out blocks, so that a fast rank takes more; finished blocks go through it to rank 0, where a thread
writes them. Only the finished record is sent by a collective call. A rank that fails says so in the
store, and no other waits for it.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store
from torch.distributed.rendezvous import rendezvous

from robustcore.runs.behaviour import Behaviour, difference
from robustcore.runs.errors import RunError
from robustcore.runs.rows import Rows

KINDS = {
    "run": RunError,
    "value": ValueError,
    "type": TypeError,
    "file": OSError,
}  # of errors told to the others
PAUSE = 0.02  # seconds between two looks at the store
T = TypeVar("T")
Write = Callable[[int, int, Rows], None]  # block, rank, its rows

_apart: ContextVar[bool] = ContextVar("apart", default=False)
_calls = itertools.count()  # every rank makes the same calls in the same order
_groups = itertools.count()  # and joins the same groups


class Stopped(Exception):
    """A rank was asked to stop, and all have finished the block in flight."""


@contextmanager
def alone() -> Iterator[None]:
    """Within this, a rank of a process group measures by itself, and no other need take part."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


@contextmanager
def together(device: torch.device | str = "cpu") -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    Gives this rank's device: for "cuda", the GPU of its LOCAL_RANK. Through gloo, on GPUs nccl. A
    process group that exists already is used and left alone. Another launcher will do that sets
    torchrun's WORLD_SIZE, RANK, MASTER_ADDR and MASTER_PORT.
    """
    device = torch.device(device)
    many = "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not many or not dist.is_available() or dist.is_initialized():
        yield device
        return
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    # torchrun's store outlives a restart and a group, and a rank must not look for what was there
    store, rank, size = next(rendezvous("env://"))
    store = PrefixStore(f"robustcore/{_attempt()}/group {next(_groups)}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield device
        dist.barrier()  # who leaves early takes its end of every connection with it
    finally:
        dist.destroy_process_group()


def grouped() -> bool:
    """Whether the next measurement is that of a process group, be it of one process."""
    return not _apart.get() and dist.is_available() and dist.is_initialized()


def leads() -> bool:
    """Whether this process prints and writes: of those of a group, the first."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def _attempt() -> str:
    """How often torchrun has started its processes again."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def join() -> One | Many:
    """This process, or the group it is in."""
    return Many() if grouped() and dist.get_world_size() > 1 else One()


class One:
    """A process by itself."""

    rank, size = 0, 1

    def led(self, work: Callable[[], Any]) -> Any:
        """What `work` gives on rank 0, a JSON value, to every rank; its error likewise."""
        return work()

    def agree(self, identity: dict[str, Any]) -> None:
        """Raises ValueError naming what is not the same on every rank."""

    def tried(self, work: Callable[[], T]) -> T:
        """What `work` gives on this rank; its error is told to all."""
        return work()

    def behave(self, does: Behaviour) -> None:
        """Raises ValueError where the model does not do the same on every rank."""

    def measure(
        self,
        todo: list[int],
        measure: Callable[[int], Rows],
        write: Write,
        stopping: Callable[[], bool],
    ) -> None:
        """Measure every block and write it. Raises Stopped where it was told to stop."""
        for block in todo:
            if stopping():
                break
            write(block, 0, measure(block))
        if stopping():
            raise Stopped

    def given(self, rows: Callable[[], Rows]) -> Rows:
        """Rank 0's rows, to every rank."""
        return rows()


class Many:
    """One rank of the default process group."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        prefix = f"robustcore/{_attempt()}/{next(_calls)}"
        group: Any = _get_default_store()
        self._store: Any = PrefixStore(prefix, group)
        # a wait of one thread must not hold up the other
        self._second = PrefixStore(prefix, group.clone()) if self.rank == 0 else None
        self._steps = itertools.count()

    def led(self, work: Callable[[], Any]) -> Any:
        key = f"led/{next(self._steps)}"
        if self.rank == 0:
            try:
                found = work()
            except BaseException as error:
                kind = next((k for k, each in KINDS.items() if isinstance(error, each)), "")
                self._store.set(key, json.dumps([None, _words(error), kind]))
                raise
            self._store.set(key, json.dumps([found, None, None]))
            return found
        self._wait(key)
        found, reason, kind = json.loads(self._store.get(key))
        if reason is not None:
            raise KINDS.get(kind, RuntimeError)(f"rank 0: {reason}")
        return found

    def agree(self, identity: dict[str, Any]) -> None:
        first = self.led(lambda: identity)
        mine = json.loads(json.dumps(identity))
        name = next((each for each in first if first[each] != mine.get(each)), None)
        if name is not None:
            raise self._fail(
                ValueError(
                    f"{name} must be the same on every rank, was {first[name]} on rank 0 and "
                    f"{mine.get(name)} on rank {self.rank}"
                )
            )

    def tried(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except BaseException as error:
            raise self._fail(error) from None

    def behave(self, does: Behaviour) -> None:
        first = Behaviour.from_text(self.led(does.to_text))
        why = difference(first, does)
        if why is not None:
            message = f"model must do the same on every rank, on ranks 0 and {self.rank} {why}"
            raise self._fail(ValueError(message))

    def measure(
        self,
        todo: list[int],
        measure: Callable[[int], Rows],
        write: Write,
        stopping: Callable[[], bool],
    ) -> None:
        writer = _Writer(self._second, self.size, write) if self._second is not None else None
        try:
            while (ticket := self._store.add("taken", 1) - 1) < len(todo):
                if self._ends(stopping):
                    break
                block = todo[ticket]
                content = f"{block} {self.rank}\n".encode() + measure(block).to_bytes()
                # the content first: a number that was given out is one that can be read
                name = f"{self.rank}/{ticket}"
                self._store.set(f"content/{name}", content)
                self._store.set(f"arrived/{self._store.add('arrived', 1)}", name)
            self._ends(stopping)
            self._store.add("left", 1)
            if writer is not None:
                writer.join()
                stopped = self._store.check(["stop"]) or writer.written < len(todo)
                self._store.set("ended", "stopped" if stopped else "whole")
        except BaseException as error:
            if writer is not None:
                writer.leave()
            raise self._fail(error) from None
        self._wait("ended")
        if self._store.get("ended") != b"whole":
            raise Stopped

    def given(self, rows: Callable[[], Rows]) -> Rows:
        content = [b""]

        def read() -> None:
            content[0] = rows().to_bytes()

        self.led(read)
        dist.broadcast_object_list(content, src=0)
        return Rows.from_bytes(content[0])

    def _ends(self, stopping: Callable[[], bool]) -> bool:
        if stopping():
            self._store.set("stop", "1")
        return self._store.check(["stop"]) or self._store.check(["failed"])

    def _fail(self, error: BaseException) -> BaseException:
        self._store.set("failed", f"rank {self.rank} failed: {_words(error)}")
        return error

    def _wait(self, key: str) -> None:
        _wait(self._store, key)


class _Writer(threading.Thread):
    """On rank 0: writes blocks as they arrive, until every rank has left."""

    def __init__(self, store: Any, size: int, write: Write) -> None:
        super().__init__(daemon=True)
        self.store, self.size, self.write = store, size, write
        self.written = 0
        self.error: BaseException | None = None
        self._leave = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.error = error
            self.store.set("failed", f"rank 0 failed: {_words(error)}")

    def _run(self) -> None:
        while True:
            key = f"arrived/{self.written + 1}"
            if self.store.check([key]):
                name = self.store.get(key).decode()
                head, _, body = self.store.get(f"content/{name}").partition(b"\n")
                block, rank = map(int, head.split())
                self.write(block, rank, Rows.from_bytes(body))
                self.store.delete_key(f"content/{name}")
                self.written += 1
            elif self._leave.is_set():
                return
            elif self.store.check(["failed"]):
                raise RuntimeError(self.store.get("failed").decode())
            elif self.store.add("left", 0) < self.size:
                time.sleep(PAUSE)
            elif self.store.add("arrived", 0) == self.written:
                return

    def join(self, timeout: float | None = None) -> None:
        super().join(timeout)
        if self.error is not None:
            raise self.error

    def leave(self) -> None:
        self._leave.set()
        super().join()


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _wait(store: Any, key: str) -> None:
    """Until `key` is there. Raises RuntimeError where a rank has failed."""
    while not store.check([key]):
        if store.check(["failed"]):
            raise RuntimeError(store.get("failed").decode())
        time.sleep(PAUSE)
