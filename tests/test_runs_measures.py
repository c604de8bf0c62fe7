"""Runs of every measurement and command: interrupted, resumed, shared, and the same record."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models import Small
from PIL import Image
from test_runs import ASKED, Counted, same, stop

import robustcore as rc
from robustcore import runs
from robustcore.cli import main
from robustcore.runs.identity import of_attack

HERE = str(Path(__file__).parent)


class Sparse(Small):
    """Of 32 x 32 pixels, as corruptions want them, it sees 8 x 8."""

    def forward(self, x):
        return super().forward(x[..., ::4, ::4])


class Watched(Counted):
    def __init__(self, *how):
        super().__init__(*how)
        self.inner = Sparse()


X = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(5))
NET = f"""
import signal, sys
from pathlib import Path
sys.path.insert(0, {HERE!r})
from test_runs_measures import Sparse

class Net(Sparse):
    seen = 0

    def forward(self, x):  # an interrupt, once so many images were seen as the file says
        Net.seen += len(x)
        flag = Path(__file__).with_name("stop")
        if flag.exists() and Net.seen > int(flag.read_text()):
            flag.unlink()
            signal.raise_signal(signal.SIGINT)
        return super().forward(x)

def make():
    return Net()
"""


def nearest(model, x, y):
    """An attack, as a user would write it."""
    return rc.distance_to_error(model, x, y, effort=5).x_adv


MEASURES = {
    "windows": lambda model, x, **how: rc.church_windows(
        model, x, sigma=np.full(len(x), 0.3), samples=60, size=17, attack="minimum", **how
    ),
    "audit": lambda model, x, **how: rc.audit_attack(
        model, x, None, nearest, sigma=0.2, points=20, samples=100, **how
    ),
    "corruptions": lambda model, x, **how: rc.corruption_benchmark(
        model, x, corruptions=["fog", "gaussian_noise"], severities=[3], **how
    ),
    "noisy": lambda model, x, **how: rc.noisy_distance(
        model, x, sigma=np.full(len(x), 0.2), points=20, samples=60, **how
    ),
    "certify": lambda model, x, **how: rc.certify(model, x, sigma=0.2, n0=10, n=100, **how),
    "predict": lambda model, x, **how: rc.predict(model, x, sigma=0.2, n=100, **how),
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_run_that_failed_goes_on_to_the_same_record(tmp_path, name):
    measure = MEASURES[name]
    plain = measure(Watched(), X)
    model = Watched()
    want = measure(rc.Engine(model, block=2), X, run=tmp_path / "whole")
    for column in set(want.columns()) - {"n_forward"}:  # in blocks no set-up is counted
        left, right = want.columns()[column], plain.columns()[column]
        if left.dtype.kind == "f":
            np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-6)
        else:
            assert left.tolist() == right.tolist(), column
    broken = Watched(ASKED + (model.seen - ASKED) * 2 // 3, stop)
    with pytest.raises(RuntimeError, match="stopped here"):
        measure(rc.Engine(broken, block=2), X, run=tmp_path / "b")
    (half,) = runs.progress(tmp_path / "b")
    assert 0 < half.images < len(X)
    again = Watched()
    assert same(measure(rc.Engine(again, block=2), X, run=tmp_path / "b"), want)
    assert again.seen < model.seen
    with pytest.raises(ValueError, match="seed must be that of the run"):
        measure(rc.Engine(Watched(), block=2), X, run=tmp_path / "b", seed=1)


def test_sigmas_and_points_go_with_their_images(tmp_path):
    model = Sparse()
    sigma = rc.sigma_at_error_rate(model, X, 0.3, samples=60)
    points = X + 0.2 * torch.randn(X.shape, generator=torch.Generator().manual_seed(1))
    how = {"sigma": sigma, "up": points, "across": "orthogonal", "samples": 60, "size": 9}
    want = rc.church_windows(model, X, **how)
    found = rc.church_windows(rc.Engine(model, block=1), X, run=tmp_path, **how)
    assert found.classes.tolist() == want.classes.tolist()
    assert found.sigma.tolist() == want.sigma.tolist()
    other = rc.sigma_at_error_rate(model, X, 0.3, samples=60, seed=1)
    with pytest.raises(ValueError, match="sigma must be that of the run"):
        rc.church_windows(model, X, run=tmp_path, **how | {"sigma": other})


def test_sigmas_of_an_audit_are_a_grid_unless_they_have_two_dimensions(tmp_path):
    how = {"points": 20, "samples": 60}
    grid = rc.audit_attack(Sparse(), X[:2], None, nearest, sigma=[0.1, 0.2], run=tmp_path, **how)
    assert grid.sigma.tolist() == [[0.1, 0.2]] * 2
    rows = np.array([[0.1], [0.2]])
    each = rc.audit_attack(Sparse(), X[:2], None, nearest, sigma=rows, run=tmp_path / "b", **how)
    assert each.sigma.tolist() == rows.tolist()


def test_another_attack_is_another_run(tmp_path):
    how = {"sigma": 0.2, "points": 20, "samples": 60, "run": tmp_path}
    rc.audit_attack(Sparse(), X[:1], None, nearest, **how)
    with pytest.raises(ValueError, match="attack must be that of the run"):
        rc.audit_attack(Sparse(), X[:1], None, lambda model, x, y: x + 0.1, **how)


class Moves:
    """An attack with a setting that no module and no code shows."""

    def __init__(self, far):
        self.far = far

    def __call__(self, model, x, y):
        return x + self.far


def in_closure(held):
    return lambda model, x, y: held(model, x, y)


def with_settings(**settings):
    return lambda model, x, y: x + settings["far"]


def of_class(kind):
    return lambda model, x, y: kind(0.1)(model, x, y)


class OtherMoves(Moves):
    pass


ATTACKS = {
    "a number of an object": (Moves(0.1), Moves(0.2)),
    "a number of an object in a closure": (in_closure(Moves(0.1)), in_closure(Moves(0.2))),
    "a number of an object in an object": (Moves(Moves(0.1)), Moves(Moves(0.2))),
    "a setting in a dictionary": (with_settings(far=0.1), with_settings(far=0.2)),
    "a setting in a list": (Moves([0.1, 1]), Moves([0.2, 1])),
    "a class in a closure": (of_class(Moves), of_class(OtherMoves)),
    "an array of an object": (Moves(np.array([0.1])), Moves(np.array([0.2]))),
    "a number of numpy's": (Moves(np.float32(0.1)), Moves(np.float32(0.2))),
    "an engine's settings": tuple(Moves(rc.Engine(nearest, batch_size=size)) for size in (3, 4)),
    "a method of an object": (Moves(Moves(0.1).__call__), Moves(Moves(0.2).__call__)),
    "a model": (Moves(Sparse()), Moves(torch.nn.Sequential(Sparse()))),
    "a method": (Moves(0.1).__call__, Moves(0.2).__call__),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_known_by_its_settings(name):
    one, other = map(of_attack, ATTACKS[name])
    assert one != other
    assert one == of_attack(ATTACKS[name][0])


def test_an_attack_of_other_settings_is_refused(tmp_path):
    how = {"sigma": 0.2, "points": 20, "samples": 60, "run": tmp_path}
    first = rc.audit_attack(Sparse(), X[:1], None, Moves(0.1), **how)
    again = rc.audit_attack(Sparse(), X[:1], None, Moves(0.1), **how)
    assert np.array_equal(again.sigma, first.sigma)
    with pytest.raises(ValueError, match=r"attack \(its code\) must be that of the run"):
        rc.audit_attack(Sparse(), X[:1], None, Moves(0.2), **how)


def test_one_function_is_kept_under_several_names(tmp_path):
    for norm in ("2", "inf"):
        with runs.named(f"l{norm}"):
            rc.pgd(Sparse(), X, eps=0.1, norm=norm, steps=3, run=tmp_path)
    assert {each.function for each in runs.progress(tmp_path)} == {"pgd, l2", "pgd, linf"}
    with runs.named("l2"), pytest.raises(ValueError, match="norm must be that of the run"):
        rc.pgd(Sparse(), X, eps=0.1, norm="inf", steps=3, run=tmp_path)


# -- a report -----------------------------------------------------------------------------------

REPORT = {"samples": 60, "points": 10, "effort": 5, "windows": 2, "size": 17}


def test_a_report_goes_on_and_refuses_what_has_changed(tmp_path):
    sections = ["noise", "distance", "agreement", "slices"]
    how = REPORT | {"sections": sections, "rate": 0.1}
    models = {"one": Watched(), "two": Watched()}
    want = rc.report(models, X, out=tmp_path / "whole", run=tmp_path / "kept", **how)
    assert not want.skipped
    measured = {each.function for each in runs.progress(tmp_path / "kept")}
    functions = ("sigma_at_error_rate", "error_rate", "distance_to_error", "pgd", "church_windows")
    assert measured == {f"{each}, {name}" for each in functions for name in models}
    again = {"one": Watched(), "two": Watched()}
    found = rc.report(again, X, out=tmp_path / "again", run=tmp_path / "kept", **how)
    looked = 50 + len(functions) * ASKED  # the model is looked at, no more
    assert again["one"].seen < looked < models["one"].seen
    for name, records in want.records.items():
        for each, record in records.items():
            assert same(found.records[name][each], record)
    with pytest.raises(runs.RunError, match="samples must be that of the run"):
        rc.report(again, X, out=tmp_path / "c", run=tmp_path / "kept", **how | {"samples": 70})


def test_a_report_on_a_data_set_reads_what_it_shows(tmp_path):
    labels = Sparse()(X).argmax(1)
    data = torch.utils.data.TensorDataset(X, labels)
    how = REPORT | {"sections": ["noise", "distance", "noisy-points", "slices"], "rate": 0.1}
    want = rc.report(Sparse(), X, labels, out=tmp_path / "a", **how)
    found = rc.report(Sparse(), data, out=tmp_path / "b", **how)
    assert not found.skipped
    for name, record in want.records["model"].items():
        assert found.records["model"][name].labels.tolist() == record.labels.tolist()
    assert found.records["model"]["sigma"].sigma == pytest.approx(
        want.records["model"]["sigma"].sigma, rel=1e-4
    )
    pages = [(tmp_path / each / "report.html").read_text() for each in "ab"]
    shown = [re.findall(r"image/(?:png|svg)|<svg", page) for page in pages]
    assert shown[0] == shown[1]


# -- the command line ---------------------------------------------------------------------------

COMMANDS = {
    "noisy": ("--sigma 0.2 --points 20 --samples 100", 300),
    "certify": ("--sigma 0.2 --n0 10 --n 200", 600),
    "corruptions": ("--corruptions fog contrast --severities 2 --with-robustness", 60),
    "report": ("--sections noise corruptions --samples 60 --rate 0.1", 500),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Five pictures, their labels and a model, in the folder where the command is given."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "set").mkdir()
    rows = ["file,label"]
    for i, image in enumerate(X):
        pixels = (255 * image).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "set" / f"{i}.png")
        rows.append(f"{i}.png,{i % 5}")
    (tmp_path / "set" / "labels.csv").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_interrupted_and_resumed_from_another_folder(folder, command, monkeypatch):
    options, after = COMMANDS[command]
    asked = [command, "--model", "net.py:make", "--data", "set", *options.split(), "--run"]
    assert main([*asked, "whole"]) == 0
    (folder / "stop").write_text(str(after))
    assert main([*asked, "kept"]) == 130
    assert not list((folder / "kept").glob("*.npz"))
    monkeypatch.chdir(folder.parent)
    assert main(["runs", str(folder / "kept")]) == 0
    assert main(["resume", str(folder / "kept")]) == 0
    files = sorted(path.name for path in (folder / "whole").glob("*.npz"))
    assert files
    for name in files:
        want, found = (rc.Record.load(folder / each / name) for each in ("whole", "kept"))
        assert same(found, want)
        assert len(found) == 5


@pytest.mark.parametrize("command", ["corruptions", "report"])
def test_a_command_is_shared_by_two_processes(folder, command):
    options, _ = COMMANDS[command]
    asked = [command, "--model", "net.py:make", "--data", "set", *options.split(), "--run-dir"]
    many = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*many, "-m", "robustcore", *asked, "many"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote") == 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main([*asked, "one"]) == 0
    finally:
        torch.set_num_threads(threads)
    files = sorted(path.name for path in (folder / "one").glob("*.npz"))
    assert files
    for name in files:
        assert same(*(rc.Record.load(folder / each / name) for each in ("many", "one")))
    assert {each.ranks for each in runs.progress(folder / "many")} == {2}
