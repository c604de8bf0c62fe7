"""Every body of every kernel against known answers, the reference and laws. Exact throughout."""

import hashlib
import math

import numpy as np
import pytest
import torch
from core import box_muller, loop_margin, philox
from elsewhere import few

from robustcore.kernels import reference

# Random123's published vectors (kat_vectors, philox4x32 10): counter, key, words.
ONES = "ffffffff"
KNOWN = [
    ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (f"{ONES} {ONES} {ONES} {ONES}", f"{ONES} {ONES}", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
DIGEST = "1bf3c4882d265b525126f3895f865c2ef65f810afc835ef8f1d1cfa7e56aca90"

SHAPES = [(1, 28, 28), (3, 5, 7), (3, 32, 32), (1, 1, 3), (2, 9, 9), (6, 3, 11), (3, 40, 33)]
FORMATS = [torch.contiguous_format, torch.channels_last]
FINISHES = ["plain", "clip", "normalise", "both"]


def finish(kind, channels):
    options = {}
    if kind in ("clip", "both"):
        options["clip"] = (0.1, 0.9)
    if kind in ("normalise", "both"):
        options["mean"] = torch.linspace(0.1, 0.5, channels)
        options["inv_std"] = torch.linspace(1.5, 5.0, channels)
    return options


def words(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_words(body, counter, key, expected):
    key0, key1 = words(key)
    assert body.philox(torch.tensor([words(counter)]), (key0, key1)).tolist() == [words(expected)]


@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_philox_equals_the_reference(body, n):
    counter = torch.randint(2**32, (n, 4), generator=torch.Generator().manual_seed(n))
    key = (0xDEADBEEF, 12345)
    assert torch.equal(body.philox(counter, key), reference.philox(counter, key))


def test_normals_have_the_stored_digest(body, normals):
    z = normals(body.perturb, 1 << 20, seed=2024, sample=3, image=5)
    assert hashlib.sha256(z.numpy().tobytes()).hexdigest() == DIGEST


@pytest.mark.parametrize("kind", FINISHES)
@pytest.mark.parametrize("memory_format", FORMATS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_perturb_equals_the_reference(body, batch, shape, memory_format, kind):
    slots = batch(shape)
    options = {"seed": 2**63 - 1, "stream": 2**32 - 1, **finish(kind, shape[0])}
    out = slots.run(body.perturb, slots.out(memory_format), **options)
    assert out.is_contiguous(memory_format=memory_format)
    assert torch.equal(out, slots.run(reference.perturb, **options))


@pytest.mark.parametrize("slots", [0, 1, few(130, 17)])
def test_any_number_of_slots(body, batch, slots):
    names = batch((3, 5, 7), slots=max(slots, 1)).slots(slice(0, slots))
    assert torch.equal(names.run(body.perturb), names.run(reference.perturb))


def loop_normal(e, sample, image, stream, seed):
    """One element of one draw as the contract words it, by Python integers and numpy's float32."""
    c = philox([16 * (e >> 6) + (e & 15), sample, image, stream], [seed & 0xFFFFFFFF, seed >> 32])
    slot = (e >> 4) & 3
    return box_muller(c[slot & 2], c[slot | 1])[slot & 1]


def test_perturb_equals_a_loop_over_elements(body, batch):
    slots = batch((2, 6, 13), slots=2)
    seed, stream = 2**64 - 3, 9
    out = slots.run(body.perturb, seed=seed, stream=stream)
    for s in range(2):
        row = int(slots.rows[s])
        image, sample = int(slots.ids[row]), int(slots.samples[s])
        z = [loop_normal(e, sample, image, stream, seed) for e in range(2 * 6 * 13)]
        expected = slots.x[row].numpy().ravel() + slots.sigma[s].numpy() * np.array(z, np.float32)
        assert np.array_equal(out[s].numpy().ravel(), expected)


def test_splitting_and_permuting_slots_changes_nothing(body, batch):
    n = few(23, 7)
    slots = batch((3, 9, 10), slots=n)
    whole = slots.run(body.perturb)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    assert torch.equal(slots.slots(order).run(body.perturb), whole[order])
    parts = [slots.slots(part).run(body.perturb) for part in (slice(0, 5), slice(5, n))]
    assert torch.equal(torch.cat(parts), whole)


def test_a_draw_scales_with_sigma_and_vanishes_at_zero(body, batch):
    slots = batch((3, 8, 8))
    slots.sigma.zero_()
    assert torch.equal(slots.run(body.perturb), slots.x[slots.rows])


@pytest.mark.parametrize("change", ["seed", "seed_high", "stream", "sample", "image"])
def test_each_part_of_the_name_changes_the_draw(body, normals, change):
    """Negative control: equality above would mean little if all draws were equal."""
    other = {"seed_high": {"seed": 1 << 32}}.get(change, {change: 1})
    a = normals(body.perturb, 4096, **{"seed": 0})
    b = normals(body.perturb, 4096, **{"seed": 0, **other})
    assert (a == b).float().mean() < 0.01


def logits_of(dtype, slots, classes):
    """Small integers, so with ties; some infinities and NaN; some rows all alike."""
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randint(-2, 3, (slots, classes), generator=generator).to(dtype)
    for value, share in ((math.inf, 0.05), (-math.inf, 0.3), (math.nan, 0.03)):
        logits[torch.rand(slots, classes, generator=generator) < share] = value
    logits[0], logits[1], logits[2], logits[3] = 0, -math.inf, math.nan, math.inf
    logits[4, ::2], logits[4, 1::2] = -0.0, 0.0
    labels = torch.randint(classes, (5,), generator=generator)
    rows = torch.randint(5, (slots,), generator=generator)
    return logits, labels, rows


@pytest.mark.parametrize("classes", [2, 3, 10, 1000, 1500])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_margins_and_counts_equal_a_loop(body, dtype, classes):
    logits, labels, rows = logits_of(getattr(torch, dtype), 40, classes)
    margin, runner_up = body.margins(logits, labels, rows)
    assert margin.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    padded = torch.where(torch.arange(40) % 7 == 3, -1, rows)
    counts = torch.full((5,), 10, dtype=torch.int64)
    assert body.count_errors(logits, labels, padded, counts) is None
    expected = [10] * 5
    for s, row in enumerate(logits.tolist()):
        value, other = loop_margin(row, int(labels[rows[s]]))
        assert runner_up[s] == other
        assert margin[s] == value or (math.isnan(margin[s]) and math.isnan(value))
        expected[rows[s]] += s % 7 != 3 and not value > 0
    assert counts.tolist() == expected


@pytest.mark.parametrize("layout", ["padded", "transposed"])
def test_margins_equal_the_reference_on_any_strides(body, layout):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 30, generator=generator)[:, 3:20]
    logits = logits if layout == "padded" else logits.T.contiguous().T
    labels = torch.randint(17, (9,), generator=generator)
    rows = torch.randint(9, (300,), generator=generator)
    margin, runner_up = body.margins(logits, labels, rows)
    expected, other = reference.margins(logits, labels, rows)
    assert torch.equal(margin, expected)
    assert torch.equal(runner_up, other)
    counts, again = torch.zeros(2, 9, dtype=torch.int64)
    body.count_errors(logits, labels, rows, counts)
    again.index_add_(0, rows, (expected <= 0).long())
    assert torch.equal(counts, again)


def test_padding_alone_counts_nothing(body):
    counts = torch.zeros(2, dtype=torch.int64)
    rows = torch.full((6,), -1)
    body.count_errors(torch.zeros(6, 3), torch.tensor([0, 1]), rows, counts)
    assert counts.tolist() == [0, 0]
