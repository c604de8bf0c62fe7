"""Images in every form are the same images; what is too large is read as it is wanted."""

import numpy as np
import pytest
import torch
from models import Small
from PIL import Image
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import robustcore as rc
from robustcore.sources import LabelledFolder, open_source

N = 9
BYTES = torch.randint(0, 256, (N, 3, 8, 8), generator=torch.Generator().manual_seed(2)).byte()
X = BYTES.float() / 255
Y = torch.arange(N) % 5


class Pictures(Dataset):
    """Pillow images with labels, as torchvision's data sets without a transform."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return Image.fromarray(BYTES[i].permute(1, 2, 0).numpy()), int(Y[i])


class Sliced:
    def __len__(self):
        return N

    def __getitem__(self, part):
        return X[part]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


@pytest.fixture
def folder(tmp_path):
    for i in range(N):
        Image.fromarray(BYTES[i].permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    rows = [f"{i}.png,{int(Y[i])}" for i in range(N)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    return tmp_path


def rate(x, y=None, **more):
    return rc.error_rate(rc.Engine(Small(), block=4), x, 0.1, y, samples=20, **more)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X.numpy(), Y),
        (X.double().numpy(), Y.numpy()),
        (BYTES, Y),
        (BYTES.numpy(), Y.tolist()),
        (BYTES.flip(0).numpy()[::-1], Y),
        ([image[:, ::-1] for image in X.flip(2).numpy()], Y),
        (TensorDataset(X, Y), None),
        (TensorDataset(X), Y),
        (DataLoader(TensorDataset(X, Y), batch_size=2), None),
        (Pictures(), None),
        ([(image, int(label)) for image, label in zip(X, Y, strict=True)], None),
        (Sliced(), Y),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_form_gives_the_record_of_the_tensor(x, y):
    want, found = rate(X, Y), rate(x, y)
    assert found.labels.tolist() == Y.tolist()
    np.testing.assert_array_equal(found.rate, want.rate)


def test_a_folder_with_labels(folder, tmp_path):
    want = rate(X, Y)
    elsewhere = tmp_path / "classes.csv"
    elsewhere.write_text((folder / "labels.csv").read_text().replace("file", " Path"))
    for found in (rate(str(folder)), rate(folder, elsewhere), rate(LabelledFolder(folder))):
        np.testing.assert_array_equal(found.rate, want.rate)
        assert found.labels.tolist() == Y.tolist()
    assert len(LabelledFolder(folder, images=4)) == 4
    small = LabelledFolder(folder, size=4)[0:2]
    assert small.shape == (2, 3, 4, 4)
    assert 0 <= float(small.min()) < float(small.max()) <= 1


def test_pictures_of_other_sizes_are_scaled_and_cut(folder):
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = 255  # the middle
    Image.fromarray(wide).save(folder / "3.png")
    with pytest.raises(
        ValueError, match=r"x must hold images of one size, image 3 had shape \(3, 20, 40\)"
    ):
        rate(folder)
    with pytest.raises(ValueError, match=r"one size, or size be given: .*3\.png had shape"):
        LabelledFolder(folder)[2:4]
    found = LabelledFolder(folder, size=14)[3:4]
    assert found.shape == (1, 3, 14, 14)
    assert float(found.min()) > 0.99


def test_pictures_of_more_bits_are_refused(folder):
    deep = Image.fromarray(np.full((8, 8), 1000, np.uint16))
    with pytest.raises(ValueError, match=r"8 bits a channel, image 0 was I;16"):
        rate([deep, deep])
    deep.save(folder / "3.png")
    with pytest.raises(ValueError, match=r"8 bits a channel, .*3\.png was I"):
        rate(folder)


def test_the_model_says_where_and_in_which_type_images_are_read():
    seen = []

    class Half(Small):
        def forward(self, x):
            seen.append(x.dtype)
            return super().forward(x)

    rc.error_rate(Half().to(torch.bfloat16), X.numpy(), 0.1, samples=5)
    assert set(seen) == {torch.bfloat16}


def test_only_a_block_is_read_at_a_time():
    reads = []

    class Watched(Sliced):
        def __getitem__(self, part):
            reads.append(part.stop - part.start)
            return super().__getitem__(part)

    rate(Watched())
    assert max(reads) == 4


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (Stream(), TypeError, "x must be .* images by number, or a folder, was Stream"),
        (DataLoader(Stream()), TypeError, "images by number, or a folder, was Stream"),
        (
            DataLoader(TensorDataset(X), shuffle=True),
            ValueError,
            "keeps the order .* RandomSampler",
        ),
        (TensorDataset(X[:0]), ValueError, "x must hold at least one image, the TensorDataset"),
        (TensorDataset(X, Y, Y), ValueError, "pairs .image, label., an item had 3 parts"),
        ([X[0], X[1, :, :4]], ValueError, "x must hold images of one size, image 1 had shape"),
        ([X[0], "cat.png"], TypeError, "x must hold inputs .* image 1 "),
        (X.numpy()[0, 0], RuntimeError, r"model must take inputs \(\d, 8\) in torch.float32"),
        (X.numpy().astype(int), TypeError, "x must be floating point in .* or uint8, was int64"),
        ([X[0], X[1] * torch.nan], ValueError, "x must be finite, input 1 holds NaN"),
        ((X + 1).numpy() * np.inf, ValueError, "x must be finite, input 0 holds NaN or inf"),
        ("no/such/folder", OSError, "x must be a folder of images, there is none at no/such"),
        (3, TypeError, "x must be a torch.Tensor, a numpy array, .* was int"),
        (None, TypeError, "x must be a torch.Tensor, a numpy array, .* was NoneType"),
    ],
)
def test_refusals(x, error, message):
    with pytest.raises(error, match=message):
        rate(x)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "labels must be a CSV file that can be read"),
        ("", "labels must have a header and a row for each image"),
        ("a,b\n0.png,1", "labels must have the columns file and label, .* had a, b"),
        ("file,label\n0.png,cat", "labels must be integer classes, line 2 of .* had 'cat'"),
        ("file,label\n0.png,-1", "labels must not be negative, line 2"),
        ("file,label\n0.png,1\n,2", "labels must name a file in each line, line 3"),
        ("file,label\nmissing.png,1", r"x must hold every file .*missing\.png: No such file"),
        ("file,label\nlabels.csv,1", "x must hold images that Pillow reads, not .*labels.csv"),
    ],
)
def test_refusals_of_a_table(folder, table, message):
    path = folder / "labels.csv"
    path.unlink() if table is None else path.write_text(table)
    with pytest.raises((ValueError, OSError), match=message):
        rate(folder)


def test_one_set_is_told_from_another(folder):
    abouts = [
        open_source(x, None, Small()).about
        for x in (X, X.flip(0), X[:8], X.numpy(), BYTES, str(folder), TensorDataset(X))
    ]
    assert len(set(abouts)) == len(abouts)
    (folder / "4.png").write_bytes((folder / "5.png").read_bytes())
    assert open_source(folder, None, Small()).about not in abouts


def test_a_table_that_excel_wrote_and_a_label_past_all_integers(folder):
    table = folder / "labels.csv"
    text = table.read_text()
    table.write_text(text, encoding="utf-8-sig")
    assert LabelledFolder(folder).y.tolist() == Y.tolist()
    table.write_text(f"file,label\n0.png,{10**30}")
    with pytest.raises(ValueError, match="labels must be integer classes, line 2"):
        LabelledFolder(folder)


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.longdouble])
def test_arrays_of_types_that_torch_does_not_know(dtype):
    np.testing.assert_array_equal(rate(X.numpy().astype(dtype), Y).rate, rate(X, Y).rate)


@pytest.mark.parametrize(
    "batches",
    [BatchSampler(RandomSampler(range(N)), 2, False), [[3, 1], [0, 2]]],
    ids=["random", "list"],
)
def test_a_loader_whose_batches_are_in_another_order_is_refused(batches):
    with pytest.raises(ValueError, match="keeps the order of its data set"):
        rate(DataLoader(TensorDataset(X, Y), batch_sampler=batches), Y)


@pytest.mark.parametrize("label", ["cat", torch.eye(3)[0], np.zeros(2, np.int64)])
def test_labels_that_are_no_numbers_are_refused_by_name(label):
    with pytest.raises(TypeError, match=r"x must hold labels that are integer .* image 0 had"):
        rate([(image, label) for image in X])


def test_a_mapping_is_no_set_of_images(tmp_path):
    np.savez(tmp_path / "x.npz", x=X.numpy())
    with np.load(tmp_path / "x.npz") as file, pytest.raises(TypeError, match="was NpzFile"):
        rate(file)


def test_a_loader_with_a_collate_fn_of_its_own_is_refused():
    def darker(items):
        return torch.stack([image / 2 for image, _ in items]), None

    with pytest.raises(ValueError, match="it had a collate_fn of its own: do what that does"):
        rate(DataLoader(TensorDataset(X, Y), batch_size=2, collate_fn=darker))
    assert len(rate(DataLoader(TensorDataset(X, Y), batch_size=None))) == N


# -- labels: of all images or of none ------------------------------------------------------------


class Labelled(Dataset):
    """Images with the labels that it is given."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return X[i % N], self.labels[i]


@pytest.mark.parametrize("missing", [0, 3, 17, 39])
def test_one_missing_label_among_40_is_refused_by_its_image(missing):
    wrong = ((Small()(X).argmax(1) + 1) % 5)[torch.arange(40) % N].tolist()
    labels = [None if i == missing else label for i, label in enumerate(wrong)]
    with pytest.raises(ValueError, match=f"for each image or for none, image {missing} had none"):
        rate(Labelled(labels))
    # labels given beside the set are taken for its own
    assert rate(Labelled(labels), wrong).rate.mean() > 0.9


@pytest.mark.parametrize(
    ("label", "error", "message"),
    [
        (None, ValueError, "x must hold a label for each image or for none, image 5 had none"),
        (float("nan"), TypeError, "integer class indices, image 5 had nan"),
        (torch.tensor(float("nan")), TypeError, r"integer class indices, image 5 had tensor\(nan"),
        (1.0, TypeError, "integer class indices, image 5 had 1.0"),
        (True, TypeError, "integer class indices, image 5 had True"),
        (-1, ValueError, r"labels from 0 to 2\^63 - 1, image 5 had -1"),
        (np.int8(-1), ValueError, r"labels from 0 to 2\^63 - 1, image 5 had -1"),
        (2**63, ValueError, r"labels from 0 to 2\^63 - 1, image 5 had 9223372036854775808"),
    ],
    ids=repr,
)
def test_a_label_that_is_none_is_refused_by_its_image(label, error, message):
    labels = [int(each) for each in Y]
    labels[5] = label
    for x in (Labelled(labels), DataLoader(Labelled(labels), batch_size=4)):
        with pytest.raises(error, match=message):
            rate(x)
    with pytest.raises(error, match=message):  # where a block holds this image alone
        rc.error_rate(rc.Engine(Small(), block=1), Labelled(labels), 0.1, samples=5)


def test_items_with_and_without_a_label_are_refused():
    mixed = [(X[0], 1), X[1], (X[2], 0)]
    with pytest.raises(ValueError, match="for each image or for none, image 1 had none"):
        rate(mixed)
    with pytest.raises(ValueError, match="for each image or for none, image 0 had none"):
        rc.error_rate(rc.Engine(Small(), block=1), mixed[1:], 0.1, samples=5)


@pytest.mark.parametrize("kind", [int, np.int16, np.uint8, torch.tensor, lambda k: np.array([k])])
def test_integer_labels_of_every_type_are_taken(kind):
    assert rate(Labelled([kind(int(label)) for label in Y])).labels.tolist() == Y.tolist()


# -- an image alone ------------------------------------------------------------------------------


def convolutions(channels):
    """A module that can only take pictures."""
    return nn.Sequential(nn.Conv2d(channels, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_alone_is_one_image(channels):
    image = X[0, :channels]

    for x in (image, image.numpy(), (255 * image).byte(), image[None]):
        found = rc.error_rate(convolutions(channels), x, 0.1, samples=5)
        assert len(found) == 1


@pytest.mark.parametrize("form", [lambda x: x.numpy(), lambda x: [x[0]], lambda x: x, Subset])
def test_attacks_of_one_image_in_every_form(form, tmp_path):
    arguments = {"eps": 0.01, "steps": 2}
    image = form(X[:1]) if form is not Subset else Subset(TensorDataset(X), [0])
    found = rc.pgd(Small(), image, Y[:1], run=tmp_path, **arguments)
    want = rc.pgd(Small(), X[:1], Y[:1], **arguments)
    assert torch.equal(found.x_adv, want.x_adv)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((9, 2, 100), r"\(9, 2, 100\): give x\[None\] for one image, x\[:, None\] for 9 grey"),
        ((2, 8, 8), r"\(2, 8, 8\): give x\[None\]"),
        ((10, 28, 28), r"\(10, 28, 28\): give x\[None\]"),
        ((8, 8, 3), r"\(8, 8, 3\): the channels may stand last: move them first"),
    ],
)
def test_what_may_be_a_batch_is_not_taken_for_an_image(shape, message):
    x = torch.zeros(shape)
    for form in (x, x.numpy(), x.byte(), x.byte().numpy()):
        with pytest.raises(ValueError, match=message):
            rc.error_rate(convolutions(3), form, 0.1, samples=5)
        with pytest.raises(ValueError, match=message):
            rc.corrupt(x, "fog", 1)


# -- the same images at every reading ------------------------------------------------------------


class Augmented(Dataset):
    """Changes an image, or a label, each time that one of `changing` is read."""

    def __init__(self, changing, labels=False):
        self.changing, self.labels, self.times = changing, labels, 0

    def __len__(self):
        return 40

    def __getitem__(self, i):
        image, label = X[i % N].clone(), int(Y[i % N])
        if i in self.changing:
            self.times += 1
            if self.labels:
                label = self.times
            else:
                image[0, 0, 0] = 0.01 * self.times  # a single pixel
        return image, label


def test_a_set_that_gives_another_image_when_asked_again_is_refused():
    with pytest.raises(ValueError, match="same image each time it is read, image 0 was another"):
        rate(Augmented(range(40)))
    with pytest.raises(ValueError, match="image 39 was another when read again: leave out random"):
        rate(Augmented([39]))
    with pytest.raises(ValueError, match="that of image 39 was 1, then 2"):
        rate(Augmented([39], labels=True))
    assert len(rate(Augmented([]))) == 40


def test_other_sets_that_change_are_refused():
    rng = np.random.default_rng(0)

    class Noisy(Sliced):
        def __getitem__(self, part):
            return X[part] + 0.1 * float(rng.random())

    for x in (Noisy(), DataLoader(Augmented(range(40))), Subset(Augmented([3, 4]), [3, 4])):
        with pytest.raises(ValueError, match="same image each time it is read, image 0 was"):
            rate(x)
    memory = X.numpy().copy()
    source = open_source(memory, None, Small())
    memory[7] /= 2
    source.block(0, 4)
    with pytest.raises(ValueError, match="image 7 was another when read again"):
        source.block(4, 9)


def test_a_report_knows_images_that_change(tmp_path):
    with pytest.raises(ValueError, match="same image each time it is read, image 0 was"):
        rc.report(Small(), Augmented(range(40)), out=tmp_path)


class Short(Sliced):
    def __getitem__(self, part):
        return X[part.start : min(part.stop, 5)]


def test_a_set_that_gives_fewer_images_than_it_has_is_refused():
    with pytest.raises(ValueError, match=r"images 7 to 7 were 0 images|images 5 to 5 were 0"):
        rate(Short())


# -- loaders -------------------------------------------------------------------------------------


def rows(sampler, drop_last):
    return DataLoader(TensorDataset(X, Y), batch_sampler=BatchSampler(sampler, 4, drop_last))


class Reversed(DataLoader):
    def __iter__(self):
        return reversed(list(super().__iter__()))


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (
            DataLoader(TensorDataset(X), batch_size=4, drop_last=True),
            "gives 8 of 9: leave out drop",
        ),
        (rows(SequentialSampler(range(N)), True), "gives 8 of 9: leave out drop_last=True"),
        (rows(SequentialSampler(range(5)), False), "gives 5 of 9"),
        (DataLoader(TensorDataset(X), sampler=SequentialSampler(range(3))), "gives 3 of 9"),
        (DataLoader(TensorDataset(X), shuffle=True), "its sampler was RandomSampler: leave out sh"),
        (
            DataLoader(TensorDataset(X), sampler=SubsetRandomSampler([1, 2])),
            "its sampler was SubsetRandomSampler",
        ),
        (
            DataLoader(TensorDataset(X), sampler=WeightedRandomSampler([1.0] * N, N)),
            "its sampler was WeightedRandomSampler",
        ),
        (DataLoader(TensorDataset(X), sampler=[4, 2]), "its sampler was list"),
        (Reversed(TensorDataset(X)), "Reversed has an order of its own"),
    ],
)
def test_a_loader_that_gives_other_images_than_its_set_is_refused(loader, message):
    with pytest.raises(ValueError, match=message):
        rate(loader, Y)


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(TensorDataset(X, Y), batch_size=3, drop_last=True),
        DataLoader(TensorDataset(X, Y), batch_size=4),
        rows(SequentialSampler(range(N)), False),
        DataLoader(Subset(TensorDataset(X, Y), range(N)), batch_size=2),
    ],
)
def test_a_loader_that_gives_every_image_is_measured(loader):
    np.testing.assert_array_equal(rate(loader).rate, rate(X, Y).rate)
