"""Every body of each law of perturb against known answers, the reference and the contract, exactly.

That the numbers follow their laws is in test_kernels_noise.py.
"""

import hashlib

import numpy as np
import pytest
import torch
from core import box_muller, minus_twice_log, philox

from robustcore.kernels import LAWS, reference

F32 = np.float32
LEVELS = (-0.25, 1.5)
DIGESTS = {
    "gaussian": "e0439fb29a333fd9652744fcd3547ec4507aed2fa6b76c80b6fd127daa54f699",
    "uniform": "77aee8118c31e4e482f27d70bfc0088ab6821cd226366471f0f06c72818e4659",
    "laplace": "88858399764b4389191362ef8063ceebf76a93671f44c93eb6fe9d9af4357394",
    "salt_and_pepper": "a4744744a0aff89e10832f9d0a53479761bbdf55b29c7ea78e0f0e76ac7d1f8d",
    "speckle": "ca07d8b803a88c8567f8c33de0f7d4740f95fb3948c9ebc760841571859dbaaa",
}

SHAPES = [(1, 1, 1), (1, 7, 9), (1, 8, 8), (1, 5, 13), (3, 32, 32), (5, 3, 11)]

each_law = pytest.mark.parametrize("law", LAWS[1:])  # test_kernels.py has the first


def options(law, **more):
    levels = LEVELS if law == "salt_and_pepper" else None
    return {"law": law, "levels": levels, **more}


def bits(value):
    """So that -0.0 and 0.0 differ, and NaN, of an element that nobody wrote, equals nothing."""
    assert not value.isnan().any()
    return value.contiguous().view(torch.int32)


@each_law
def test_each_law_equals_the_reference(body, batch, law):
    for shape in SHAPES:
        channels = shape[0]
        scaling = {
            "mean": torch.linspace(0.1, 0.5, channels),
            "inv_std": torch.linspace(1.5, 5.0, channels),
        }
        slots = batch(shape, slots=2)
        for memory_format, more in (
            (torch.contiguous_format, {}),
            (torch.channels_last, {"clip": (0.1, 0.9), **scaling}),
        ):
            given = options(law, seed=2**63 - 1, stream=2**32 - 1, **more)
            out = slots.run(body.perturb, slots.out(memory_format), **given)
            assert out.is_contiguous(memory_format=memory_format)
            expected = slots.run(reference.perturb, **given)
            assert torch.equal(bits(out), bits(expected)), (shape, memory_format)


@pytest.mark.parametrize("law", LAWS)
def test_each_law_has_its_stored_digest(body, law):
    n = 1 << 16
    zero = torch.zeros(1, dtype=torch.int64)
    x = torch.full((1, 1, 1, n), 0.75)
    out = torch.full_like(x, torch.nan)
    names = torch.tensor([0.3]), zero + 3, zero + 5
    body.perturb(x, zero, *names, out, seed=2024, **options(law))
    assert hashlib.sha256(out.numpy().tobytes()).hexdigest() == DIGESTS[law]


def element(law, e, x, scale, sample, image, stream, seed):
    """One element of one draw as the contract words it, by Python's integers and float32."""
    c = philox([16 * (e >> 6) + (e & 15), sample, image, stream], [seed & 0xFFFFFFFF, seed >> 32])
    slot = (e >> 4) & 3
    word = c[slot]
    negative = word & 1
    if law == "salt_and_pepper":
        return F32(LEVELS[negative]) if (word >> 8) / 2**24 < scale else x
    if law == "uniform":
        return x + scale * F32(((word ^ 2**31) - 2**31 >> 8) / 2**23 + 2**-24)
    if law == "laplace":
        size = F32(0.5) * minus_twice_log(F32(word | 1))
        return x + scale * (-size if negative else size)
    z = box_muller(c[slot & 2], c[slot | 1])[slot & 1]
    return x + (x * scale) * z if law == "speckle" else x + scale * z


@each_law
def test_each_law_equals_a_loop_over_elements(body, batch, law):
    slots = batch((2, 6, 13), slots=2)
    seed, stream = 2**64 - 3, 9
    out = slots.run(body.perturb, **options(law, seed=seed, stream=stream))
    for s in range(2):
        row = int(slots.rows[s])
        names = int(slots.samples[s]), int(slots.ids[row]), stream, seed
        scale = slots.sigma[s].numpy()
        x = slots.x[row].numpy().ravel()
        expected = [element(law, e, x[e], scale, *names) for e in range(2 * 6 * 13)]
        assert np.array_equal(out[s].numpy().ravel(), np.array(expected, F32))


@each_law
def test_splitting_and_permuting_slots_changes_nothing(body, batch, law):
    slots = batch((3, 9, 10), slots=5)
    given = options(law)
    whole = slots.run(body.perturb, **given)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(slots.slots(order).run(body.perturb, **given), whole[order])
    parts = [slots.slots(part).run(body.perturb, **given) for part in (slice(0, 3), slice(3, 5))]
    assert torch.equal(torch.cat(parts), whole)


@each_law
def test_at_scale_zero_nothing_changes(body, batch, law):
    slots = batch((3, 8, 8), slots=2)
    slots.sigma.zero_()
    assert torch.equal(slots.run(body.perturb, **options(law)), slots.x[slots.rows])


def offsets(body, batch, law, scale, x=0.0, **more):
    """What slots of one value become."""
    slots = batch((3, 9, 11), slots=3)
    slots.x.fill_(x)
    slots.sigma.fill_(scale)
    return slots.run(body.perturb, **options(law, **more))


@pytest.mark.parametrize("law", ["gaussian", "uniform", "laplace"])
def test_offsets_are_proportional_to_the_scale(body, batch, law):
    one = offsets(body, batch, law, 1.0)
    assert one.unique().numel() > 800  # negative control: not all alike
    for scale in (2.0**-20, 0.25, 2.0, 64.0):
        assert torch.equal(offsets(body, batch, law, scale), scale * one)


def test_speckle_is_proportional_to_the_value(body, batch):
    assert not offsets(body, batch, "speckle", 0.3).any()
    one = offsets(body, batch, "speckle", 0.3, x=1.0)
    assert torch.equal(one, offsets(body, batch, "gaussian", 0.3, x=1.0))
    for value in (-0.5, 4.0):
        assert torch.equal(offsets(body, batch, "speckle", 0.3, x=value), value * one)


def test_what_salt_and_pepper_replace_stays_replaced(body, batch):
    before = torch.zeros(3, 3, 9, 11)
    scales = torch.tensor([0.0, 2.0**-23, 0.05, 0.3, 0.5, 0.9, 1 - 2.0**-24, 1.0])
    shares = []
    for scale in scales.tolist():
        out = offsets(body, batch, "salt_and_pepper", scale)
        was = before != 0
        assert torch.equal(out[was], before[was])
        shares.append(float((out != 0).double().mean()))
        before = out
    assert sorted(before.unique().tolist()) == list(LEVELS)  # at 1 nothing is left
    assert shares[0] == 0
    # 891 elements: within 5 standard deviations, a false alarm once in a million
    error = 5 * (scales * (1 - scales) / before.numel()).sqrt()
    assert (torch.tensor(shares) - scales).abs().le(error).all()
    other = offsets(body, batch, "salt_and_pepper", 1.0, seed=8)  # negative control
    assert 0.3 < float((other == before).double().mean()) < 0.7


def test_uniform_offsets_are_those_of_random_starts(body, batch):
    for elements in (1, 64, 65, 257, 3072):
        slots = batch((1, 1, elements), slots=2)
        slots.x.zero_()
        names = {"seed": 2**64 - 5, "stream": 11}
        out = slots.run(body.perturb, law="uniform", **names).view(2, -1)
        start = torch.full_like(out, torch.nan)
        ids = slots.ids[slots.rows]
        body.random_start(slots.sigma, slots.samples, ids, start, norm=torch.inf, **names)
        assert torch.equal(out, start)
