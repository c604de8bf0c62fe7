"""The C++ bodies: threads, processes, refusals and what contraction would do."""

import multiprocessing
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from robustcore.kernels import native, reference

CSRC = Path(__file__).parents[1] / "csrc"


@pytest.fixture(autouse=True)
def keep_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_number_of_threads_changes_nothing(batch, memory_format):
    slots = batch((3, 32, 32), slots=200)
    logits = torch.randint(3, (200, 10), generator=torch.Generator().manual_seed(0)).float()
    results = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        counts = torch.zeros(4, dtype=torch.int64)
        native.count_errors(logits, torch.arange(4), slots.rows, counts)
        results.append((slots.run(native.perturb, slots.out(memory_format)), counts))
    for out, counts in results[1:]:
        assert torch.equal(out, results[0][0])
        assert torch.equal(counts, results[0][1])


def test_callers_in_many_threads_get_their_own_results(batch):
    torch.set_num_threads(2)
    slots = batch((3, 32, 32), slots=100)
    expected = {seed: slots.run(native.perturb, seed=seed) for seed in range(4)}
    wrong = []

    def call(seed):
        for _ in range(50):
            if not torch.equal(slots.run(native.perturb, seed=seed), expected[seed]):
                wrong.append(seed)

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def _perturb_in_child(batch, queue):
    torch.set_num_threads(1)  # torch's own pool, unlike ours, does not survive a fork
    out = batch.out()
    torch.get_num_threads = lambda: 2
    batch.run(native.perturb, out)
    queue.put(out.numpy().tobytes())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(batch):
    slots = batch((3, 32, 32), slots=100)
    torch.set_num_threads(2)
    expected = slots.run(native.perturb)  # the parent's pool is running
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_perturb_in_child, args=(slots, queue), daemon=True)
    child.start()
    assert queue.get(timeout=60) == expected.numpy().tobytes()
    child.join(timeout=60)
    assert child.exitcode == 0


def test_an_unknown_instruction_set_is_refused(batch):
    with pytest.raises(ValueError, match="isa must be one that this machine runs; got 'sse9'"):
        batch((1, 2, 3)).run(native.perturb, isa="sse9")


def test_arguments_that_would_reach_outside_memory_are_refused(batch):
    slots = batch((3, 4, 5))
    cases = {
        "x must be": {"x": slots.x.double()},
        "x must be .* contiguous on cpu": {"x": slots.x.mT.contiguous().mT},
        "rows must be": {"rows": slots.rows.int()},
        r"rows must lie in \[0, 4\); got [4-7]": {"rows": slots.rows + 4 - slots.rows.min()},
        r"rows must lie in \[0, 4\); got -1": {"rows": slots.rows * 0 - 1},
        "sigma must be": {"sigma": slots.sigma[1:]},
        "samples must be": {"samples": slots.samples.float()},
        "ids must be": {"ids": slots.ids[1:]},
        "out must be": {"out": torch.empty(11, 3, 5, 4)},
        "out must be contiguous or": {"out": torch.empty(11, 3, 5, 4).transpose(2, 3)},
        "mean and inv_std must be given together": {"mean": torch.zeros(3)},
        "inv_std must be": {"mean": torch.zeros(3), "inv_std": torch.ones(2)},
    }
    for message, change in cases.items():
        given = {**vars(slots), "out": slots.out(), "seed": 0, **change}
        with pytest.raises(ValueError, match=message):
            native.perturb(**given)


def test_logits_that_would_reach_outside_memory_are_refused():
    logits, labels, rows = torch.zeros(4, 3), torch.tensor([0, 2]), torch.tensor([0, 1, 1, 0])
    counts = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="logits must be"):
        native.margins(logits[:, :1], labels, rows)
    with pytest.raises(ValueError, match="labels must be"):
        native.margins(logits, labels.int(), rows)
    with pytest.raises(ValueError, match=r"rows must lie in \[0, 2\)"):
        native.margins(logits, labels, rows + 1)
    with pytest.raises(ValueError, match="rows must lie in"):
        native.count_errors(logits, labels, rows + 1, counts)
    with pytest.raises(ValueError, match="counts must be"):
        native.count_errors(logits, labels, rows, counts.int())
    assert counts.tolist() == [0, 0]


PROGRAM = """
#include <stdio.h>
#include "cpu/kernels.h"
int main() {
    static float x[1 << 16], out[1 << 16];
    const float sigma = 1.0f;
    const int64_t zero = 0;
    robustcore::PerturbArgs args{};
    args.x = x; args.out = out; args.sigma = &sigma;
    args.rows = args.samples = args.ids = &zero;
    args.slots = args.channels = 1; args.pixels = 1 << 16;
    robustcore::baseline.perturb(args, 0, robustcore::tiles_per_slot(args));
    fwrite(out, sizeof out, 1, stdout);
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
@pytest.mark.skipif("avx2" not in native.ISAS, reason="this machine has no fused multiply-add")
@pytest.mark.parametrize(
    ("flags", "same"), [(["-ffp-contract=off"], True), (["-ffp-contract=fast"], False)]
)
def test_contraction_would_change_the_noise(tmp_path, normals, flags, same):
    """Negative control of -ffp-contract=off, by compiling the same files without it."""
    (tmp_path / "main.cpp").write_text(PROGRAM)
    sources = [tmp_path / "main.cpp", CSRC / "cpu/perturb_baseline.cpp"]
    command = ["c++", "-std=c++17", "-O2", "-mfma", f"-I{CSRC}", *flags, *sources, "-o"]
    subprocess.run([*map(str, command), str(tmp_path / "run")], check=True)
    done = subprocess.run([str(tmp_path / "run")], check=True, capture_output=True)
    z = np.frombuffer(done.stdout, np.float32)
    expected = normals(reference.perturb, 1 << 16, seed=0).numpy()
    assert np.array_equal(z, expected) == same
    assert np.allclose(z, expected, rtol=0, atol=1e-5)


SCALAR = """
#include <stdio.h>
#include "core/normal.h"
#include "core/philox.h"
using namespace robustcore;
int main() {
    static float out[1 << 16];
    for (uint64_t block = 0; block < 1 << 14; ++block) {
        const Words<Scalar> w = philox<Scalar>({block, 0, 0, 0}, Key{0, 0});
        const Normals<Scalar> a = normals<Scalar>(uint32_t(w.c0), uint32_t(w.c1));
        const Normals<Scalar> b = normals<Scalar>(uint32_t(w.c2), uint32_t(w.c3));
        float* const z = out + (block >> 4) * 64 + (block & 15);
        z[0] = a.z0, z[16] = a.z1, z[32] = b.z0, z[48] = b.z1;
    }
    fwrite(out, sizeof out, 1, stdout);
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_the_headers_give_the_same_bits_one_lane_at_a_time(tmp_path, normals):
    """As a GPU's threads will use them."""
    (tmp_path / "main.cpp").write_text(SCALAR)
    command = ["c++", "-std=c++17", "-O2", "-ffp-contract=off", f"-I{CSRC}", tmp_path / "main.cpp"]
    subprocess.run([*map(str, command), "-o", str(tmp_path / "run")], check=True)
    done = subprocess.run([str(tmp_path / "run")], check=True, capture_output=True)
    expected = normals(reference.perturb, 1 << 16, seed=0)
    assert done.stdout == expected.numpy().tobytes()


def test_core_headers_know_no_library():
    """csrc/core is for every compiler, and files compiled for one instruction set share no std."""
    for path in CSRC.rglob("*"):
        text = path.read_text() if path.is_file() else ""
        included = [line.split()[1] for line in text.splitlines() if line.startswith("#include")]
        if path.parent.name == "core":
            ours = {f'"{other.name}"' for other in path.parent.iterdir()}
            assert set(included) <= ours | {"<stdint.h>", "<string.h>"}, path
        if (
            path.name in ("vector.h", "draw.h", "perturb.inc", "ball.inc", "kernels.h")
            or path.parent.name == "core"
        ):
            assert "std::" not in text.replace("No std::", "").replace("no std::", ""), path
        if path.name != "bindings.cpp" and path.parent.name + "/" + path.name != "fused/network.h":
            assert not any(
                "torch" in name or "ython" in name or "pybind" in name for name in included
            )
