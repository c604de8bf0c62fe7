"""A run on disk: what is kept, what is refused, and that an interrupted run ends in one record."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from models import Slab, Small, grey

import robustcore as rc
from robustcore import runs
from robustcore.network import SPREAD
from robustcore.runs import whole
from robustcore.runs.errors import FILE
from robustcore.runs.rows import record_of, rows_of

X = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(3))
ASKED = 32  # evaluations by which a run knows its model again: 16 inputs, twice
SET_UP = 15  # and of an engine that is new: 14, and one to count the model's operations
IN_ANOTHER_PROCESS = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"


def rate(run=None, model=None, x=X, block=4, batch_size=None, **more):
    engine = rc.Engine(model or Small(), block=block, batch_size=batch_size)
    return rc.error_rate(engine, x, run=run, **{"sigma": [0.1, 0.3], "samples": 60, **more})


def same(a, b):
    """Bit for bit, in everything but how it was made."""
    for name, (dtype, _) in a._arrays().items():
        left, right = getattr(a, name), getattr(b, name)
        equal = torch.equal(left, right) if dtype is None else np.array_equal(left, right)
        assert equal, name
    assert all(getattr(a, name) == getattr(b, name) for name in a._scalars())
    return True


class Counted(torch.nn.Module):
    """Counts the images it sees, takes its time, and may do something at one of them."""

    def __init__(self, at=None, act=None, pause=0):
        super().__init__()
        self.inner, self.seen, self.at, self.act, self.pause = Small(), 0, at, act, pause

    def forward(self, x):
        self.seen += len(x)
        time.sleep(self.pause)
        if self.at is not None and self.seen > self.at:
            self.at = None
            self.act()
        return self.inner(x)

    def __repr__(self):
        return "Counted"


def stop():
    raise RuntimeError("stopped here")


# -- what is kept ----------------------------------------------------------------------------


def test_a_run_gives_the_numbers_of_a_call_without(tmp_path):
    model = Slab(16, 0.5)
    x, y = grey(11)
    for function, more in (
        (rc.sigma_at_error_rate, {"error_rate": 0.05}),
        (rc.error_rate, {"sigma": [0.1, 0.3]}),
        (rc.distance_to_error, {"effort": 10}),
        (rc.pgd, {"eps": [0.1, 0.9], "norm": 2, "steps": 5}),
    ):
        more |= {"samples": 60} if "rate" in function.__name__ else {}
        found = function(model, x, y=y, run=tmp_path, **more)
        plain = function(model, x, y=y, **more)
        for name in set(found.columns()) - {"n_forward"}:  # in blocks no set-up is counted
            left, right = found.columns()[name], plain.columns()[name]
            if left.dtype.kind == "f":
                np.testing.assert_allclose(left, right, rtol=1e-5)
            else:
                assert left.tolist() == right.tolist()
    assert {each.function for each in runs.progress(tmp_path)} == {
        "sigma_at_error_rate", "error_rate", "distance_to_error", "pgd"
    }  # fmt: skip


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_rows_give_the_record_back_bit_for_bit(kind):
    model = Small().to(kind)
    record = rc.distance_to_error(model, X[:5].to(kind), effort=5)
    rows = rows_of(record)
    again = record_of(type(rows).from_bytes(rows.to_bytes()))
    assert same(record, again)
    assert again.x_adv.dtype == kind
    assert again.provenance == record.provenance


def test_blocks_cover_the_set_and_shrink():
    for n in (1, 3, 4, 200, 1000, 50_000):
        found = whole.spans(n, 16)
        assert [a for a, _ in found] == [0, *(b for _, b in found[:-1])]
        assert found[-1][1] == n
        assert max(b - a for a, b in found) <= 16
    assert whole.spans(50_000, 16)[0] == (0, 16)
    assert whole.spans(200, 16)[0] == (0, 4)
    assert whole.spans(10, 4, None) == [(0, 4), (4, 8), (8, 10)]


def test_a_finished_run_is_read_not_measured_again(tmp_path):
    first = rate(tmp_path, Counted())
    model = Counted(ASKED, stop)
    assert same(rate(tmp_path, model), first)
    assert model.seen == ASKED
    assert runs.progress(tmp_path)[0].sessions == 2


def test_only_what_is_missing_is_measured(tmp_path):
    model = Counted()
    want = rate(tmp_path / "whole", model)
    total = model.seen
    broken = Counted(total // 2, stop)
    with pytest.raises(RuntimeError, match="stopped here"):
        rate(tmp_path / "broken", broken)
    done = runs.progress(tmp_path / "broken")[0]
    assert 0 < done.images < len(X)
    assert not done.running
    again = Counted()
    assert same(rate(tmp_path / "broken", again), want)
    assert again.seen < 0.8 * total  # nothing that was done is done again


def test_order_and_ids_are_the_callers(tmp_path):
    ids = np.arange(20)[::-1] * 7
    found = rate(tmp_path, ids=ids)
    assert found.ids.tolist() == ids.tolist()
    assert not np.array_equal(found.rate, rate(tmp_path / "other").rate)


def test_targets_go_with_their_images(tmp_path):
    model, y = Slab(16, 0.5), torch.zeros(9, dtype=torch.long)
    targets = torch.tensor([1, 2] * 4 + [1])
    found = rc.distance_to_error(
        rc.Engine(model, block=2), grey(9)[0], y, targets=targets, effort=10, run=tmp_path
    )
    assert found.targets.tolist() == targets.tolist()
    assert found.label_adv.tolist() == targets.tolist()


def test_memory_that_ran_out_is_remembered(tmp_path):
    class Tight(Small):
        def forward(self, x):
            if len(x) > 30:
                raise torch.OutOfMemoryError("no room")
            return super().forward(x)

    with pytest.raises(RuntimeError, match="stopped"):
        rate(tmp_path, Tight(), x=Broken(), batch_size=128)
    found = rate(tmp_path, Tight(), x=Broken(at=None), batch_size=128)
    halvings = [note for note in found.provenance.notes if "out of memory" in note]
    assert halvings == [f"out of memory: batch size halved to {n}" for n in (64, 32, 16)]
    assert found.provenance.batch_size == 16


class Broken(torch.utils.data.Dataset):
    """A data set whose disk fails at an image."""

    def __init__(self, at=10):
        self.at = at

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        # sampled at the start to tell one set from another, then read in order
        self.read = getattr(self, "read", 0) + 1
        if self.at is not None and i >= self.at and self.read > len(X) + 1:
            raise RuntimeError("stopped: the disk failed")
        return X[i]


def test_a_model_is_compiled_as_for_the_whole_set(tmp_path, monkeypatch):
    monkeypatch.setattr("robustcore.network.COMPILE_FLOPS", 1e7)  # of the set, not of a block
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    assert rate(tmp_path / "blocks", Counted()).provenance.compiled
    assert not rate(model=Counted(), x=X[:4], block=None).provenance.compiled


# -- interruptions ---------------------------------------------------------------------------


def test_the_first_interrupt_finishes_the_block_in_flight(tmp_path, capsys):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup
    model = Counted()
    want = rate(tmp_path / "whole", model)
    interrupted = Counted(model.seen // 2, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="go on with `robustcore resume"):
        rate(tmp_path / "run", interrupted)
    assert "finishing the images in flight" in capsys.readouterr().err
    done = runs.progress(tmp_path / "run")[0].images
    assert 0 < done < 20
    assert done % 4 == 0
    again = Counted()
    assert same(rate(tmp_path / "run", again), want)
    # not an evaluation was lost: the model was looked at once more, and its largest batch
    assert interrupted.seen + again.seen == model.seen + ASKED + SET_UP + SPREAD
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_a_second_interrupt_does_not_wait(tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="finished blocks are kept"):
        rate(tmp_path, Counted(700, twice))
    assert same(rate(tmp_path, Counted()), rate(model=Counted()))


def test_outside_the_main_thread_signals_are_left_alone(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(rate(tmp_path)))
    thread.start()
    thread.join()
    assert same(found[0], rate())


MEASURE = (
    IN_ANOTHER_PROCESS + "import torch; torch.set_num_threads(1)\n"
    "from test_runs import rate\nprint('begins', flush=True)\nrate(sys.argv[1])"
)


def test_killed_at_any_moment_nothing_is_lost(tmp_path):
    """SIGKILL at random moments of one run; benchmarks/fault.py does it at full length."""
    want = rate()
    rng = np.random.default_rng(0)
    kills, seen, command = 0, {}, [sys.executable, "-c", MEASURE, str(tmp_path)]
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            try:
                process.wait(rng.uniform(0.02, 0.2))
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
        if not (tmp_path / FILE).exists():
            continue
        with sqlite3.connect(tmp_path / FILE) as db:
            now = dict(db.execute("SELECT id, record FROM images"))
        assert seen.items() <= now.items()  # nothing lost, nothing changed
        seen = now
    assert kills > 1
    assert same(rate(tmp_path), want)


def test_progress_tells_speed_and_time_left(tmp_path):
    with pytest.raises(FileNotFoundError, match="run must be the folder of a run"):
        runs.progress(tmp_path)
    with pytest.raises(RuntimeError, match="stopped"):
        rate(tmp_path, Counted(1500, stop))
    (half,) = runs.progress(tmp_path)
    assert half.total == 20
    assert half.images_per_second == pytest.approx(half.images / half.seconds)
    assert half.seconds_left == pytest.approx((20 - half.images) / half.images_per_second)
    assert half.evaluations > 100 * half.images
    assert half.evaluations_per_second == pytest.approx(half.evaluations / half.seconds)
    rate(tmp_path, Counted())
    (whole_,) = runs.progress(tmp_path)
    assert (whole_.images, whole_.seconds_left) == (20, 0)


def test_progress_is_read_by_the_process_that_measures(tmp_path):
    seen = []
    rate(tmp_path, Counted(1500, lambda: seen.extend(runs.progress(tmp_path))))
    (half,) = seen
    assert half.running
    assert 0 < half.images < half.total == 20
    assert half.images % 4 == 0
    (whole_,) = runs.progress(tmp_path)
    assert not whole_.running


def test_before_its_first_block_a_run_has_no_speed(tmp_path):
    with pytest.raises(RuntimeError, match="stopped"):
        rate(tmp_path, Counted(ASKED + 1, stop))
    (begun,) = runs.progress(tmp_path)
    assert (begun.images, begun.evaluations, begun.seconds) == (0, 0, 0)
    speeds = begun.images_per_second, begun.evaluations_per_second, begun.seconds_left
    assert np.isnan(speeds).all()


def test_provenance_tells_of_blocks_and_sessions(tmp_path):
    rate(tmp_path)
    found = rate(tmp_path)
    assert found.provenance.notes[-1] == "measured in 5 blocks, 2 sessions"
    json.dumps(found.provenance.settings)


@pytest.mark.parametrize(("block", "words"), [(2, "2 blocks"), (4, "1 block"), (1, "4 blocks")])
def test_blocks_are_counted_in_words(block, words):
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = rc.error_rate(rc.Engine(Small(), block=block), x, 0.1, samples=5)
    assert found.provenance.notes[-1] == f"measured in {words}"
