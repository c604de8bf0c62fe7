"""The bodies of the kernels, one fixture for all of them.

Triton's interpreter is chosen when triton is imported, so test_kernels_triton.py runs the tests of
`body` again, in a process of its own, with TRITON_INTERPRET=1. With ROBUSTCORE_TEST_DEVICE=cuda
they are those of a GPU: see elsewhere.py.
"""

import ctypes
import fcntl
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from elsewhere import DEVICE, INTERPRETED, Elsewhere, few
from emulated import build, emulated, launched
from torch import Tensor

from robustcore.kernels import KERNELS, select
from robustcore.network import Network

BODIES = ["reference", "avx512", "avx2", "baseline"]
if INTERPRETED:
    BODIES = ["triton"]
elif DEVICE != "cpu":
    BODIES = ["reference", "triton", "cuda"]


@pytest.fixture(scope="session", autouse=True)
def state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and the processes that they start, leave the user's key of runs alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


M_PERTURB = -6  # of malloc.h


@dataclass(frozen=True)
class Body:
    name: str
    philox: Callable[..., Tensor]
    perturb: Callable[..., Tensor]
    margins: Callable[..., tuple[Tensor, Tensor]]
    count_errors: Callable[..., None]
    random_start: Callable[..., Tensor]
    ball_step: Callable[..., Tensor]
    ball_slope: Callable[..., Tensor]
    update_best: Callable[..., Tensor]


@pytest.fixture(params=BODIES)
def body(request: pytest.FixtureRequest) -> Body:
    name = request.param
    if name in ("avx512", "avx2", "baseline"):
        module = importlib.import_module("robustcore.kernels.native")
        if name not in module.ISAS:
            pytest.skip(f"this machine does not run {name}")
        bodies = {each: getattr(module, each) for each in KERNELS}
        for each in {*KERNELS} - {"margins", "count_errors"}:
            bodies[each] = partial(bodies[each], isa=name)
        return Body(name, **bodies)
    chosen = Elsewhere(select(name, DEVICE))
    return Body(name, **{each: getattr(chosen, each) for each in KERNELS})


@dataclass(frozen=True)
class Batch:
    """The arguments of one call of perturb."""

    x: Tensor
    rows: Tensor
    sigma: Tensor
    samples: Tensor
    ids: Tensor

    def out(self, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        """Filled with NaN: an element that nobody writes cannot pass."""
        empty = torch.empty(len(self.rows), *self.x.shape[1:])
        return empty.contiguous(memory_format=memory_format).fill_(torch.nan)

    def slots(self, index: Any) -> "Batch":
        rows, sigma, samples = self.rows[index], self.sigma[index], self.samples[index]
        return Batch(self.x, rows, sigma, samples, self.ids)

    def run(self, perturb: Callable[..., Tensor], out: Tensor | None = None, **more: Any) -> Tensor:
        out = self.out() if out is None else out
        x, rows, sigma, samples, ids = self.x, self.rows, self.sigma, self.samples, self.ids
        return perturb(x, rows, sigma, samples, ids, out, **{"seed": 7, **more})


@pytest.fixture
def batch() -> Callable[..., Batch]:
    def make(shape: tuple[int, int, int], slots: int = few(11, 3), images: int = 4) -> Batch:
        generator = torch.Generator().manual_seed(sum(shape))
        rows = torch.randint(images, (slots,), generator=generator)
        sigma = torch.rand(slots, generator=generator)
        samples = torch.randint(2**32, (slots,), generator=generator)
        ids = torch.randint(2**32, (images,), generator=generator)
        samples[0], ids[rows[0]] = 2**32 - 1, 2**32 - 1  # the largest of both
        return Batch(torch.rand(images, *shape, generator=generator), rows, sigma, samples, ids)

    return make


@pytest.fixture(scope="session")
def emulation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Compiled once, by the first of the processes that share out the tests."""
    if DEVICE != "cpu":
        return None
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "emulated"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build(folder)


@pytest.fixture(scope="module")
def cuda(emulation: Any) -> Iterator[Any]:
    """The kernels in CUDA C++ and the fused networks, run by the CPU or on the device."""
    if emulation is None:
        yield launched()
        return
    with emulated(emulation) as doors:
        yield doors


@pytest.fixture
def strange_memory() -> Iterator[None]:
    """Memory that malloc gives holds numbers near -10^38, not zeros; where there is glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: None)
    mallopt(M_PERTURB, 1)
    yield
    mallopt(M_PERTURB, 0)


@pytest.fixture
def normals() -> Callable[..., Tensor]:
    """n standard normals of one draw by one body's perturb."""

    def make(
        perturb: Callable[..., Tensor], n: int, *, sample: int = 0, image: int = 0, **more: Any
    ) -> Tensor:
        zero = torch.zeros(1, dtype=torch.int64)
        names = Batch(torch.zeros(1, 1, 1, n), zero, torch.ones(1), zero + sample, zero + image)
        return names.run(perturb, **more).flatten()

    return make


@pytest.fixture
def toy_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of training_data's networks, known to `train`."""
    from training_data import Narrow, Plain

    from robustcore import zoo

    monkeypatch.setitem(zoo.NETWORKS, "narrow", Narrow)
    monkeypatch.setitem(zoo.NETWORKS, "plain", Plain)


@pytest.fixture
def batches_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations that compare batches of other sizes are counted in test_batch_dependence.py."""
    monkeypatch.setattr(Network, "compare", lambda *_: None)
