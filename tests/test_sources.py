"""Images in every form are the same images; what is too large is read as it is wanted."""

import numpy as np
import pytest
import torch
from models import Small
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
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
    return rc.error_rate(Small(), x, 0.1, y, samples=20, block=4, progress=False, **more)


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

    rc.error_rate(Half().to(torch.bfloat16), X.numpy(), 0.1, samples=5, progress=False)
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
        ([X[0], "cat.png"], TypeError, "x must hold images .* image 1 "),
        (X.numpy()[0, 0], ValueError, r"x must be one image .* had shape \(8, 8\)"),
        (X.numpy().astype(int), TypeError, "x must be floating point in .* or uint8, was int64"),
        ([X[0], X[1] * torch.nan], ValueError, "x must be finite, image 1 holds NaN"),
        ((X + 1).numpy() * np.inf, ValueError, "x must be finite, image 0 holds NaN or inf"),
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
