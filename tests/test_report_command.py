"""robustcore report: models, images and refusals."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import robustcore as rc
from robustcore import zoo
from robustcore.cli import main, models


class Pool(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_models_come_from_files(tmp_path):
    x = torch.rand(5, 3, 8, 8)
    code = "import torch\ndef make():\n    return torch.nn.Sequential(torch.nn.Dropout(), Pool())\n"
    source = "from torch import nn\nclass Pool(nn.Module):\n"
    source += "    def forward(self, x):\n        return x.mean((2, 3))\n" + code
    (tmp_path / "net.py").write_text(source)
    torch.jit.trace(Pool(), x).save(str(tmp_path / "net.pt"))
    program = torch.export.export(Pool(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "net.pt2")
    for name, word in (("net.py:make", "make"), ("net.pt", "net"), ("net.pt2", "net")):
        path = str(tmp_path / name)
        model = models.load(path, "cpu")
        assert models.named(path) == word
        for batch in (x, x[:1]):
            assert torch.allclose(model(batch), batch.mean((2, 3)), atol=1e-6), name
    assert models.named("cifar10-natural") == "cifar10-natural"


def test_every_network_of_the_zoo_has_its_own_name():
    for name in zoo.names():  # some hold a point
        assert models.named(name) == name
        assert isinstance(models.load(name, "cpu"), nn.Module)


def test_an_exported_program_of_one_batch_size_says_how_to_export_it(tmp_path):
    program = torch.export.export(Pool(), (torch.rand(5, 3, 8, 8),))
    torch.export.save(program, tmp_path / "fixed.pt2")
    model = models.load(str(tmp_path / "fixed.pt2"), "cpu")
    with pytest.raises(ValueError, match=r"must take batches of any size[\s\S]*dynamic_shapes"):
        model(torch.rand(3, 3, 8, 8))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.pt", "there is no file gone.pt"),
        ("gone.py:make", "there is no file gone.py"),
        ("net.py", "must name a function too"),
        ("net.py:other", "had no 'other'; it has broken, make"),
        ("net.py:make", "must be a model, or a function that returns one, net.py:make gave int"),
        ("net.py:broken", "ZeroDivisionError"),
        ("bad.py:make", "bad.py failed: SyntaxError"),
        ("weights.pt", "neither program. Weights alone need a function"),
        ("note.txt", "neither program"),
        ("cifar10-robust", "model must be one of"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(name, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("def make(): return 3\ndef broken(): return 1 / 0\n")
    (tmp_path / "bad.py").write_text("def make(:\n")
    (tmp_path / "note.txt").write_text("hello")
    torch.save({"w": torch.ones(2)}, tmp_path / "weights.pt")
    assert main(["report", "--model", name, "--out", "out"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_the_command_writes_the_page_and_names_it(tmp_path, capsys):
    np.savez(tmp_path / "grey.npz", images=np.full((3, 8, 8, 3), 128, np.uint8), labels=[0, 1, 2])
    (tmp_path / "net.py").write_text("def pool(): return lambda x: x.mean((2, 3))\n")
    out = tmp_path / "out"
    command = f"report --model {tmp_path}/net.py:pool --data {tmp_path}/grey.npz --out {out}"
    assert main([*command.split(), "--quick", "--images", "2", "--sections", "noise"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"wrote {out / 'report.html'}"
    assert "pool is right on" in printed
    assert len(rc.Record.load(out / "pool.sigma.npz")) == 2


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_models_of_every_form_stand_side_by_side(tmp_path):
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "some.npz", images=x.numpy(), labels=Pool()(x).argmax(1).numpy())
    (tmp_path / "net.py").write_text(
        "from types import SimpleNamespace\n"
        "def pool(): return lambda x: x.mean((2, 3))\n"  # as RobustBench: pixels to logits
        "def face(): return lambda x: SimpleNamespace(logits=x.mean((2, 3)))\n"
    )
    torch.jit.trace(Pool(), x).save(str(tmp_path / "script.pt"))
    program = torch.export.export(Pool(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "program.pt2")
    models = [
        tmp_path / each for each in ("net.py:pool", "net.py:face", "script.pt", "program.pt2")
    ]
    command = ["report", "--data", tmp_path / "some.npz", "--out", tmp_path / "out", "--quick"]
    command += ["--sections", "noise", "distance", "--model", *models]
    assert main([str(each) for each in command]) == 0
    names = ("pool", "face", "script", "program")
    folder = tmp_path / "out"
    # one function in four wrappers: the same draws, and so the same numbers up to rounding
    sigma = [rc.Record.load(folder / f"{name}.sigma.npz").sigma for name in names]
    near = [rc.Record.load(folder / f"{name}.distance.npz").distance for name in names]
    assert np.allclose(sigma, sigma[0], rtol=1e-4)
    assert np.allclose(near, near[0], rtol=1e-2)
    assert (sigma[0] > 0).all()
    page = (folder / "report.html").read_text()
    for name in names:
        assert f'class="number">{name}</th>' in page, name


def test_images_come_from_a_folder(tmp_path):
    for i in range(3):
        Image.new("RGB", (8, 8), (80 * i, 100, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "labels.csv").write_text("file,label\n2.png,0\n0.png,1\n1.png,1\n")
    (tmp_path / "net.py").write_text("def pool(): return lambda x: x.mean((2, 3))\n")
    command = f"report --model {tmp_path}/net.py:pool --data {tmp_path} --out {tmp_path}/out"
    assert main([*command.split(), "--quick", "--sections", "noise"]) == 0
    record = rc.Record.load(tmp_path / "out" / "pool.sigma.npz")
    assert record.labels.tolist() == [0, 1, 1]
    assert record.status.tolist()[1] == "found"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "nowhere"], "data must be one of"),
        (["--data", "empty.npz"], "--data must hold images"),
        (["--data", "text.npz"], "--data must be an npz file that can be read"),
        (["--images", "0"], "--images must be at least 1, was 0"),
        (["--images", "1001"], r"--images must be in \[1, 1000\], was 1001"),
        (["--size", "32"], "--size must be left out where --data is no folder, was cifar10"),
        (["--model", "cifar10-natural"], "cifar10-natural came twice"),
        (["--device", "quantum"], "--device must name a torch device"),
        (["--records", "gone", "--model", "net.py:pool"], "--records must be of one model"),
    ],
)
def test_bad_options_are_named(more, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "empty.npz", labels=[1])
    (tmp_path / "text.npz").write_text("no")
    (tmp_path / "net.py").write_text("def pool(): return lambda x: x.mean((2, 3))\n")
    assert main(["report", "--model", "cifar10-natural", "--out", "out", *more]) == 2
    assert re.search(message, capsys.readouterr().err)
