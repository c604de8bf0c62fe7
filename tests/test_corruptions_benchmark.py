"""The benchmark: what it counts, what storage does, what it refuses, files on disk."""

import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from torch import nn

from robustcore.corruptions import (
    ALEXNET,
    COMMON,
    ImageFiles,
    corrupt,
    corruption_benchmark,
    corruption_benchmark_files,
)
from robustcore.corruptions.benchmark import Condition, _ahead
from robustcore.engine import Engine
from robustcore.evaluator import Evaluator
from robustcore.results import CorruptionResult, Record
from robustcore.results.corruptions import better_and_worse
from robustcore.stats import clopper_pearson
from robustcore.zoo import load_images

FEW = {"corruptions": ["fog", "gaussian_noise"], "severities": [1, 5]}


class Bright(nn.Module):
    """Class 1 where the mean is above `level`, a tie where it is exactly there."""

    def __init__(self, level=0.45):
        super().__init__()
        self.level = level

    def forward(self, x):
        height = x.mean((1, 2, 3)) - self.level
        return torch.stack([-height, height], 1)


@pytest.fixture(scope="module")
def x():
    return load_images(20)[0]


def test_counts_are_those_of_a_loop(x):
    model = Bright()
    y = model(x).argmax(1)
    y[3] = 1 - y[3]
    found = corruption_benchmark(Engine(model, batch_size=7), x, y, seed=5, **FEW)
    assert found.names == ("fog", "gaussian_noise")
    assert found.severity.tolist() == [1, 5, 1, 5]
    for g, (name, severity) in enumerate(zip(found.corruption, found.severity, strict=True)):
        answers = model(corrupt(x, str(name), int(severity), seed=5)).argmax(1)
        assert (found.correct[:, g] == (answers == y).numpy()).all()
    assert found.clean_correct.sum() == 19
    probed = Evaluator(model, x[:4], y[:4]).n_forward
    probed[0] += 4  # of the first batch of 7, which is larger than all before
    assert (found.n_forward[:4] - 5).tolist() == probed.tolist()
    assert (found.n_forward[4:] == 5).all()
    table = found.columns()
    low, high = clopper_pearson(found.correct.sum(0), 20, 0.95)
    assert table["corruption"].tolist() == ["clean", "fog", "fog", *2 * ["gaussian_noise"]]
    assert np.array_equal(table["accuracy_low"][1:], low)
    assert np.array_equal(table["accuracy_high"][1:], high)
    assert found.provenance.settings["parameters"] == "cifar"
    assert found.mean_accuracy() == pytest.approx(found.accuracy.mean())
    assert found.mean_accuracy(["gaussian_noise"]) == pytest.approx(found.accuracy[:2].mean())


def test_no_image_bounds_no_accuracy(x):
    none = corruption_benchmark(Bright(), x[:2], **FEW)[:0].columns()
    assert np.isnan(none["accuracy"]).all()
    assert none["accuracy_low"].tolist() == [0.0] * 5
    assert none["accuracy_high"].tolist() == [1.0] * 5
    assert none["n_images"].tolist() == [0] * 5


def test_batches_and_order_change_no_count(x):
    model, ids = Bright(), torch.arange(100, 120)
    whole = corruption_benchmark(model, x, ids=ids, **FEW)
    parts = corruption_benchmark(Engine(model, batch_size=3), x, ids=ids, **FEW)
    assert np.array_equal(whole.correct, parts.correct)
    backwards = corruption_benchmark(model, x.flip(0), ids=ids.flip(0), **FEW)
    assert np.array_equal(whole.correct, backwards.correct[::-1])
    assert np.array_equal(whole[5:9].correct, whole.correct[5:9])


def test_the_next_batch_is_made_while_the_model_judges_this_one(x):
    """The model waits, in its batch, for the next to be begun: one thread alone would not do it."""
    begun = [threading.Event() for _ in range(3)]

    def condition(number):
        def make(part):
            begun[number].set()
            return x[part]

        return Condition("fog", number, make)

    for column, _, _ in _ahead([condition(number) for number in range(3)], len(x), len(x)):
        assert column == 2 or begun[column + 1].wait(20)


def test_ties_and_nan_are_errors(x):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 3)

    assert not corruption_benchmark(Constant(), x, **FEW).correct.any()

    class Hole(nn.Module):
        """The last logit is NaN, which is no answer, whether labels are given or not."""

        def forward(self, x):
            mean = x.mean((1, 2, 3))
            return torch.stack([mean, 1 - mean, torch.full_like(mean, torch.nan)], 1)

    found = corruption_benchmark(Hole(), x, **FEW)
    assert not found.correct.any()
    assert not found.clean_correct.any()
    assert set(found.labels) <= {0, 1}
    given = corruption_benchmark(Hole(), x, torch.full((len(x),), 2), **FEW)
    assert not given.correct.any()
    assert not given.clean_correct.any()


def test_storage_is_what_the_model_sees(x):
    seen = []

    class Watching(Bright):
        def forward(self, x):
            seen.append(x.clone())
            return super().forward(x)

    def last(**more):
        corruption_benchmark(Watching(), x, corruptions="fog", severities=4, **more)
        return seen[-1]

    fog = corrupt(x, "fog", 4)
    assert torch.equal(last(), fog)
    cut = (fog * 255 + 1e-3).floor()
    assert torch.equal(last(storage="uint8"), cut / 255)
    file = io.BytesIO()
    Image.fromarray(cut[2].byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=30)
    expected = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)
    assert torch.equal(last(storage="jpeg", quality=30)[2] * 255, expected.float())


def test_records_are_saved_and_read_again(x, tmp_path):
    found = corruption_benchmark(Bright(), x, **FEW)
    found.save(tmp_path / "found.npz")
    again = Record.load(tmp_path / "found.npz")
    assert isinstance(again, CorruptionResult)
    assert np.array_equal(again.correct, found.correct)
    assert again.corruption.tolist() == found.corruption.tolist()
    assert "2 conditions" not in repr(found)
    assert "4 conditions" in repr(found)


def result(rates, names=COMMON, images=1000):
    """A record whose corruption i has accuracy rates[i] at each severity."""
    rates = np.repeat(rates, 5)
    correct = np.arange(images)[:, None] < np.round(images * rates)
    made = corruption_benchmark(Bright(), load_images(1)[0], corruptions="fog")
    return CorruptionResult(
        ids=np.arange(images),
        labels=np.zeros(images, np.int64),
        correct=correct,
        clean_correct=np.ones(images, bool),
        corruption=np.repeat(names, 5),
        severity=np.tile(np.arange(1, 6), len(names)),
        n_forward=np.ones(images, np.int64),
        confidence=0.95,
        provenance=made.provenance,
    )


def test_alexnets_errors_are_the_published_ones():
    published = [88.6, 89.4, 92.3, 82.0, 82.6, 78.6, 79.8, 86.7, 82.7, 81.9, 56.5, 85.3]
    published += [64.6, 71.8, 60.7]
    np.testing.assert_allclose([100 * ALEXNET[name] for name in COMMON], published, atol=0.051)


def test_mce_is_one_for_the_reference():
    alexnet = result(1 - np.array(list(ALEXNET.values())), images=10**6)
    assert alexnet.mce(ALEXNET) == pytest.approx(1, abs=1e-5)
    assert alexnet.mce(alexnet) == pytest.approx(1)
    halved = result(1 - np.array(list(ALEXNET.values())) / 2, images=10**6)
    assert halved.mce(ALEXNET) == pytest.approx(0.5, abs=1e-5)
    assert halved.mce(alexnet, exclude=["gaussian_noise"]) == pytest.approx(0.5, abs=1e-5)
    one = halved.corruption_errors(ALEXNET)
    assert list(one) == list(COMMON)


def test_groups_are_by_who_does_better():
    natural, other = result([0.5, 0.5, 0.8], COMMON[:3]), result([0.7, 0.6, 0.7], COMMON[:3])
    better, worse = better_and_worse(natural, other)
    assert list(better) == ["gaussian_noise", "shot_noise"]
    assert worse == {"impulse_noise": pytest.approx(-0.1)}


def test_mce_refuses_what_does_not_fit():
    found = result([0.5], ["fog"])
    with pytest.raises(ValueError, match="lacked fog"):
        found.mce({"snow": 0.5})
    with pytest.raises(ValueError, match="had none for fog"):
        found.mce({"fog": 0.0})
    with pytest.raises(ValueError, match="same corruptions and severities"):
        found.mce(result([0.5, 0.5], ["fog", "snow"]))
    with pytest.raises(ValueError, match="exclude must name corruptions measured, but held 'snow'"):
        found.mean_accuracy(["snow"])
    with pytest.raises(ValueError, match="left none"):
        found.mean_accuracy(["fog"])
    with pytest.raises(ValueError, match="held none"):
        better_and_worse(found, result([0.5], ["snow"]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"corruptions": ["fogg"]}, ValueError, "did you mean 'fog'"),
        ({"corruptions": []}, ValueError, "corruptions must hold at least one and none twice"),
        ({"corruptions": ["fog", "fog"]}, ValueError, "corruptions must hold .* none twice"),
        ({"severities": [0]}, ValueError, r"severities must be in \[1, 5\], was 0"),
        ({"severities": [1, 1]}, ValueError, "severities must hold .* none twice"),
        ({"storage": "png"}, ValueError, "storage must be one of memory, uint8, jpeg"),
        ({"storage": "jpeg", "quality": 96}, ValueError, r"quality must be in \[1, 95\]"),
        ({"confidence": 1.0}, ValueError, "confidence must lie strictly"),
        ({"x": 3}, TypeError, "x must be a torch.Tensor, a numpy array"),
        ({"x": torch.rand(2, 3, 32, 32) * 2}, ValueError, r"x must lie in \[0, 1\]"),
        ({"x": torch.rand(2, 3, 16, 32)}, ValueError, "at least 32 pixels"),
        ({"x": torch.rand(2, 1, 32, 32), "corruptions": "saturate"}, ValueError, "3 channels"),
        ({"y": [0]}, ValueError, "y must have one label for each of 2"),
        ({"y": [0, 2]}, ValueError, "y must be below the model's 2 classes"),
        ({"ids": [1, 1]}, ValueError, "ids must not repeat"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, error, message):
    good = {"x": torch.rand(2, 3, 32, 32), "corruptions": ["fog"]}
    with pytest.raises(error, match=message):
        corruption_benchmark(Bright(), **{**good, **arguments})


def test_a_backend_that_corrupts_nothing_is_refused_by_name(x):
    with pytest.raises(ValueError, match=r"backend must be one of reference, .*, was 'cuda'"):
        corruption_benchmark(Engine(Bright(), backend="cuda"), x, **FEW)


# -- files ------------------------------------------------------------------------------------


def test_images_may_stay_on_disk(x, tmp_path):
    paths = []
    for i, image in enumerate(x):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(paths[-1])
    files = ImageFiles(paths)
    assert torch.equal(files[3:9], x[3:9])
    found = corruption_benchmark(Engine(Bright(), batch_size=6), files, **FEW)
    assert np.array_equal(found.correct, corruption_benchmark(Bright(), x, **FEW).correct)
    assert ImageFiles(paths, size=(32, 20))[:2].shape == (2, 3, 32, 20)
    for size in ((33, 20), (20, 33)):
        with pytest.raises(ValueError, match="size must be at most that of"):
            ImageFiles(paths, size=size)[:2]
    assert ImageFiles(paths, size=(32, 32))[:2].shape == (2, 3, 32, 32)
    Image.new("RGB", (40, 50)).save(tmp_path / "odd.png")
    with pytest.raises(ValueError, match=r"pictures of one size, .*odd\.png"):
        ImageFiles([paths[0], tmp_path / "odd.png"])[:2]


def test_cifar_files_are_read_severity_by_severity(x, tmp_path):
    labels = Bright()(x).argmax(1)
    np.save(tmp_path / "labels.npy", labels.repeat(5).numpy().astype(np.uint8))
    parts = [corrupt(x, "fog", severity) for severity in range(1, 6)]
    pixels = (torch.cat(parts) * 255 + 1e-3).floor().byte().permute(0, 2, 3, 1).numpy()
    np.save(tmp_path / "fog.npy", pixels)
    about = {"corruptions": ["fog"], "severities": [2, 5], "confidence": 0.8}
    found = corruption_benchmark_files(Engine(Bright(), batch_size=8), tmp_path, x, **about)
    same = corruption_benchmark(Bright(), x, labels, storage="uint8", **about)
    assert np.array_equal(found.correct, same.correct)
    assert found.clean_correct.all()
    for record in (found, same):
        interval = binomtest(len(x), len(x)).proportion_ci(0.8)  # of the clean images
        assert record.columns()["accuracy_low"][0] == pytest.approx(interval.low, rel=1e-12)
    few = corruption_benchmark_files(Bright(), tmp_path, x[:5], **about)  # of longer files
    assert np.array_equal(few.correct, same.correct[:5])
    more, twice = torch.cat([x, x]), labels.repeat(2)
    with pytest.raises(ValueError, match=f"x must be the {len(x)} images of fog, was {len(more)}"):
        corruption_benchmark_files(Bright(), tmp_path, more, twice, **about)
    for bad, message in (({"corruptions": ["mist"]}, "one of"), ({"severities": [6]}, "in .1, 5")):
        with pytest.raises(ValueError, match=message):
            corruption_benchmark_files(Bright(), tmp_path, x, **{**about, **bad})
    with pytest.raises(FileNotFoundError):
        corruption_benchmark_files(Bright(), tmp_path, x, corruptions=["snow"])
    np.save(tmp_path / "snow.npy", pixels.astype(np.float32))
    with pytest.raises(ValueError, match="must hold uint8 images"):
        corruption_benchmark_files(Bright(), tmp_path, x, corruptions=["snow"])


def test_imagenet_files_are_read_class_by_class(x, tmp_path):
    rows = []
    for name in ("n02", "n01"):
        folder = tmp_path / "fog" / "3" / name
        folder.mkdir(parents=True)
        for i in range(3):
            array = (x[len(rows)] * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(array).save(folder / f"{i}.JPEG", quality=95)
            rows.append(name)
    clean = x[[3, 4, 5, 0, 1, 2]]
    about = {"corruptions": ["fog"], "severities": [3]}
    found = corruption_benchmark_files(Bright(), tmp_path, clean, **about)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(ValueError, match="x must be the 6 images of fog, was 5"):
        corruption_benchmark_files(Bright(), tmp_path, clean[:5], found.labels[:5], **about)


def test_a_label_that_the_model_does_not_know_is_named_wherever_it_stands(x):
    y = torch.zeros(len(x), dtype=int)
    y[15] = 2
    with pytest.raises(ValueError, match="y must"):
        corruption_benchmark(Bright(), x, y, **FEW)
