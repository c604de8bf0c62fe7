"""Each header of csrc/core against known answers, exactly: what a changed constant, sign, order or
comparison would miss. benchmarks/core_mutants.py makes such changes and runs these tests."""

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from core import ROOT, Core, box_muller, build_core, loop_margin, minus_twice_log, philox, radii
from torch import Tensor

from robustcore.kernels import LAWS

F32 = np.float32
LN2 = math.log(2)
TINY = 1.17549435e-38  # the smallest normal float32
LOSSES = ("ce", "margin", "dlr")

# Random123's published vectors (kat_vectors, philox4x32 10): counter and key, words.
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Core:
    headers = Path(os.environ.get("ROBUSTCORE_CSRC", ROOT / "csrc"))
    return build_core(tmp_path_factory.mktemp("core"), headers)


def bits(values: np.ndarray) -> list[int]:
    """So that -0.0 and 0.0 differ, and NaN equals itself."""
    return np.ascontiguousarray(values, F32).view(np.uint32).tolist()


# -- philox.h and draws.h ----------------------------------------------------------------------


@pytest.mark.parametrize("function", ["philox_words", "draw_words"])
def test_words_are_the_published_ones(core: Core, function: str) -> None:
    for counter, key, expected in KNOWN:
        out = np.zeros(4, np.uint32)
        core(function, np.array(counter, np.uint32), 1, *key, out)
        assert out.tolist() == expected


@pytest.mark.parametrize("function", ["philox_words", "draw_words"])
def test_words_are_those_of_integers(core: Core, function: str) -> None:
    counters = np.random.default_rng(0).integers(2**32, size=(20, 4), dtype=np.uint32)
    key = [0xDEADBEEF, 0x9E3779B9]
    out = np.zeros_like(counters)
    core(function, counters, 20, *key, out)
    assert out.tolist() == [philox(counter, key) for counter in counters.tolist()]


# -- normal.h ----------------------------------------------------------------------------------

# The ends of the range and of binades, sqrt(2) times a power of two and its neighbours.
RADIUS_WORDS = [
    *[0, 1, 2, 3, 5, 6, 0xB504, 0xB505, 2**23 - 1, 2**23, 2**24 - 1, 2**24 + 1],
    *[0x5A827999, 0x5A8279C0, 2**31 - 1, 2**31, 0xB504F2F0, 0xB504F333, 0xB504F380, 0xB504F400],
    *[2**32 - 385, 2**32 - 129, 2**32 - 128, 2**32 - 1],
]
QUARTERS = [q << 30 for q in range(4)]
FRACTIONS = [0, 63, 64, 0x0ABCDEF0, 0x1FFFFFFF, 0x20000000, 0x2FEDCBA9, 0x3FFFFFFF]


@pytest.mark.parametrize("function", ["numbers_one", "numbers_many"])
def test_normals_are_those_of_float32_arithmetic(core: Core, function: str) -> None:
    generator = np.random.default_rng(1)
    angles = [quarter | fraction for quarter in QUARTERS for fraction in FRACTIONS]
    pairs = [*itertools.product(RADIUS_WORDS, angles)]
    pairs += generator.integers(2**32, size=(101, 2)).tolist()
    radius_words, angle_words = np.array(pairs, np.uint32).T.copy()
    n = len(pairs)
    assert n % 4  # the last register is not full
    z = np.full((2, n), np.nan, F32)
    core(function, LAWS.index("gaussian"), radius_words, angle_words, n, z[0], z[1])
    expected = np.array([box_muller(*pair) for pair in pairs], F32).T
    assert bits(z[0]) == bits(expected[0])
    assert bits(z[1]) == bits(expected[1])
    assert np.abs(z).max() > 6.7


def test_normals_of_known_pairs_of_words(core: Core) -> None:
    # u = 2^-33, the largest radius there is; u = 1/2; u rounds to 1
    radius_words = np.array([0, 2**31, 2**32 - 1], np.uint32)
    angle_words = np.array([0, 0, 2**31], np.uint32)
    z = np.full((2, 3), np.nan, F32)
    core("numbers_one", LAWS.index("gaussian"), radius_words, angle_words, 3, z[0], z[1])
    assert z[0, :2].tolist() == pytest.approx([math.sqrt(66 * LN2), math.sqrt(2 * LN2)], rel=2e-7)
    quarter = math.pi / 2 * 2.0**-25  # the angle is half a step from zero
    assert z[1, :2].tolist() == pytest.approx((z[0, :2] * quarter).tolist(), rel=2e-7)
    assert bits(z[:, 2]) == [0x80000000, 0x80000000]  # zeros, of the third quarter's signs


def test_radii_of_many_words_are_those_of_float32_arithmetic(core: Core) -> None:
    """Enough that a coefficient's last bits show."""
    words = np.random.default_rng(2).integers(2**32, size=1 << 19, dtype=np.uint32)
    out = np.full(len(words), np.nan, F32)
    core("radii", words, len(words), out)
    assert np.array_equal(out.view(np.uint32), radii(words).view(np.uint32))


def test_radii_are_those_of_float64_within_an_ulp_and_end_in_zero(core: Core) -> None:
    words = np.array(RADIUS_WORDS, np.uint32)
    out = np.full(len(words), np.nan, F32)
    core("radii", words, len(words), out)
    u = (words.astype(F32) + F32(0.5)).astype(np.float64) / 2**32
    expected = np.sqrt(-2 * np.log(u))
    # the polynomial is within 2^-24 of -2 ln m, so near u = 1 only the absolute error is small
    assert np.allclose(out, expected, rtol=2e-7, atol=0)
    assert bits(out[-2:]) == [0, 0]


# -- laws.h ------------------------------------------------------------------------------------


def numbers(core: Core, law: str, words: list[int], function: str = "numbers_one") -> np.ndarray:
    """The number of each word, which must not depend on its place in a pair."""
    n = len(words)
    first = np.array(words, np.uint32)
    second = first[::-1].copy()
    z = np.full((2, n), np.nan, F32)
    core(function, LAWS.index(law), first, second, n, z[0], z[1])
    assert bits(z[0]) == bits(z[1, ::-1])
    return z[0]


def test_uniform_numbers_at_the_ends_of_their_range(core: Core) -> None:
    words = [0, 0xFF, 0x100, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
    half = 2.0**-24
    expected = [half, half, 3 * half, 1 - half, half - 1, -half]
    assert numbers(core, "uniform", words).tolist() == expected


def test_laplace_numbers_at_the_ends_of_their_range(core: Core) -> None:
    words = [0, 1, 2**31 - 1, 2**32 - 130, 2**32 - 129, 2**32 - 2, 2**32 - 1]
    t = numbers(core, "laplace", words)
    # v = 2^-32, the same with the other sign; v rounds to 1/2; v = 1 - 2^-24 only where 8 bits
    # round down; v rounds to 1
    ends = [32 * LN2, -32 * LN2, -LN2]
    assert t[:3].tolist() == pytest.approx(ends, rel=2e-7)
    assert t[3:5].tolist() == pytest.approx([2.0**-24, -(2.0**-24)], rel=2e-7)
    assert bits(t[5:]) == [0, 0x80000000]


def test_salt_and_pepper_numbers_at_the_ends_of_their_range(core: Core) -> None:
    words = [0, 1, 0xFE, 0xFF, 0x100, 0x101, 2**32 - 2, 2**32 - 1]
    step = 2.0**-24
    z = numbers(core, "salt_and_pepper", words)
    assert z.tolist() == [0, -0, 0, -0, step, -step, 1 - step, step - 1]
    assert np.signbit(z).tolist() == [False, True] * 4


@pytest.mark.parametrize("function", ["numbers_one", "numbers_many"])
def test_numbers_of_many_words_are_those_of_float32_arithmetic(core: Core, function: str) -> None:
    words = np.random.default_rng(4).integers(2**32, size=1 << 12).astype(np.int64)
    words[: len(RADIUS_WORDS)] = RADIUS_WORDS
    assert len(words) % 16 == 0
    words = words[:-3]  # the last register is not full
    odd = np.where(words % 2, F32(-1), F32(1))
    expected = {
        "uniform": ((words + 2**31) % 2**32 - 2**31 >> 8) * 2.0**-23 + 2.0**-24,
        "laplace": odd * F32(0.5) * minus_twice_log((words | 1).astype(F32)),
        "salt_and_pepper": odd * (words >> 8) * 2.0**-24,
    }
    for law, right in expected.items():
        got = numbers(core, law, words.tolist(), function)
        assert np.array_equal(got, right.astype(F32)), law
    t = expected["laplace"].astype(np.float64)
    v = (words | 1).astype(F32).astype(np.float64) / 2**32
    assert np.allclose(np.abs(t), -np.log(v), rtol=2e-7, atol=0)


def test_speckle_draws_the_normals(core: Core) -> None:
    words = np.random.default_rng(5).integers(2**32, size=(2, 100), dtype=np.uint32)
    z = np.full((2, 2, 100), np.nan, F32)
    for law, out in zip(("gaussian", "speckle"), z, strict=True):
        core("numbers_one", LAWS.index(law), words[0], words[1], 100, out[0], out[1])
    assert bits(z[0]) == bits(z[1])


def test_what_a_number_makes_of_an_element(core: Core) -> None:
    def noisy(law: str, x: float, scale: float, z: float) -> float:
        out = np.full(1, np.nan, F32)
        given = (np.array([value], F32) for value in (x, scale, z))
        core("noisy_elements", LAWS.index(law), *given, 1, -2.0, 3.0, out)
        return float(out[0])

    # three roundings of float32 show in the last: 0.1 * 3 rounds, as does its sum with 0.7
    x, scale, z = F32(0.7), F32(0.1), F32(3)
    for law in ("gaussian", "uniform", "laplace"):
        assert noisy(law, x, scale, z) == x + scale * z
    assert noisy("speckle", x, scale, z) == x + x * scale * z
    for size in (0.0, 0.25, 1 - 2.0**-24):
        for sign, level in ((1, -2.0), (-1, 3.0)):
            number = math.copysign(size, sign)
            above = np.nextafter(F32(size), F32(2))
            assert noisy("salt_and_pepper", 0.5, size, number) == 0.5  # u < scale is false
            assert noisy("salt_and_pepper", 0.5, above, number) == level
            assert noisy("salt_and_pepper", 0.5, 0.0, number) == 0.5
            assert noisy("salt_and_pepper", 0.5, 1.0, number) == level


# -- margin.h and lead.h -----------------------------------------------------------------------

VALUES = [-math.inf, -1.0, -0.0, 0.0, 2.0, math.inf, math.nan]


def rows_of(classes: int) -> np.ndarray:
    """Every row of VALUES: all ties, infinities and NaN in all places."""
    return np.array([*itertools.product(VALUES, repeat=classes)])


@pytest.mark.parametrize("name", ["float", "double"])
@pytest.mark.parametrize("classes", [2, 3])
def test_margins_of_all_rows(core: Core, name: str, classes: int) -> None:
    dtype = {"float": np.float32, "double": np.float64}[name]
    apart = 2
    for row in rows_of(classes).tolist():
        logits = np.full((classes, apart), 7.0, dtype)  # nothing between is read
        logits[:, 0] = row
        for label in range(classes):
            margin, runner_up = np.full(1, 9.0, dtype), np.full(1, -1)
            error = np.full(1, False)
            core(f"margin_{name}", logits, classes, apart, label, margin, runner_up, error)
            expected, other = loop_margin(row, label)
            assert np.array_equal(margin[0], expected, equal_nan=True), (row, label)
            assert runner_up[0] == other, (row, label)
            assert error[0] == (not expected > 0), (row, label)


@pytest.mark.parametrize("label", [-1, 3])
def test_the_margin_of_a_label_that_is_no_class_is_nan(core: Core, label: int) -> None:
    margin, runner_up, error = np.zeros(1, F32), np.full(1, -1), np.full(1, False)
    logits = np.array([1.0, 3.0, 2.0], F32)
    core("margin_float", logits, 3, 1, label, margin, runner_up, error)
    assert math.isnan(margin[0])
    assert error[0]
    assert runner_up[0] == 1


@pytest.mark.parametrize("function", ["lead_one", "lead_many"])
@pytest.mark.parametrize("classes", [2, 3])
def test_leads_of_all_rows(core: Core, function: str, classes: int) -> None:
    rows = rows_of(classes)
    logits = np.repeat(rows, classes, axis=0).astype(F32)
    labels = np.tile(np.arange(classes, dtype=np.int32), len(rows))
    out = np.full(len(labels), 9.0, F32)
    core(function, logits, labels, len(labels), classes, out)
    margins = [loop_margin(row, label)[0] for row in rows.tolist() for label in range(classes)]
    assert np.array_equal(out, np.array(margins, F32), equal_nan=True)
    assert len(labels) % 4  # the last register is not full


@pytest.mark.parametrize("function", ["lead_one", "lead_many"])
def test_the_lead_of_a_label_that_is_no_class_is_nan(core: Core, function: str) -> None:
    out = np.full(5, 9.0, F32)
    labels = np.array([-1, 3, 0, 2, 3], np.int32)
    core(function, np.tile(np.array([1.0, 3.0, 2.0], F32), 5), labels, 5, 3, out)
    assert np.isnan(out).tolist() == [True, True, False, False, True]
    assert out[2:4].tolist() == [-2.0, -1.0]


# -- loss.h ------------------------------------------------------------------------------------

NONE = -1  # no wanted class
LARGE = 1e12  # 1 over what keeps the spread from zero
GAINS = [
    # loss, logits, goal, targeted, wanted; margin, class, gain, slope
    ("margin", [1, 3, 2], 0, False, NONE, -2, 1, 2, [-1, 1, 0]),
    ("margin", [5, 1, 2], 0, False, NONE, 3, 2, -3, [-1, 0, 1]),
    ("margin", [1, 2, 5], 2, False, NONE, 3, 1, -3, [0, 1, -1]),
    ("margin", [1, 3, 2], 0, False, 2, -2, 1, 1, [-1, 0, 1]),
    ("margin", [1, 3, 2], 0, False, 0, -2, 1, 0, [0, 0, 0]),  # no lead over itself
    ("margin", [1, 3, 2], 1, False, 0, 1, 2, -2, [1, -1, 0]),
    ("ce", [1, 3, 2], 0, False, 2, -2, 1, 1, [-1, 0, 1]),
    ("ce", [1, 2, 2], 0, False, NONE, -1, 1, 1 + LN2, [-1, 0.5, 0.5]),
    ("ce", [90, 200, 90], 2, False, NONE, -110, 1, 110, [0, 1, -1]),  # exp(-110) is 0
    # ties: the lowest class
    ("margin", [2, 1, 2, 2], 0, False, NONE, 0, 2, 0, [-1, 0, 1, 0]),
    ("margin", [1, 1, 1], 1, False, NONE, 0, 0, 0, [1, -1, 0]),
    ("dlr", [4, 1, 3, 2], 0, False, NONE, 1, 2, -0.5, [-0.25, 0, 0.5, -0.25]),
    ("dlr", [1, 3], 0, False, NONE, -2, 1, 1, [0, 0]),
    ("dlr", [2, 1, 1, 0], 1, False, NONE, -1, 0, 1, [0, -1, 1, 0]),
    ("dlr", [1, 1, 1], 0, False, NONE, 0, 1, 0, [-LARGE, LARGE, 0]),
    ("dlr", [4, 1, 3, 2], 0, False, 3, 1, 2, -1, [0, 0, 0, 0]),
    # a target: signs turned
    ("margin", [1, 3, 2], 2, True, NONE, 1, 2, -1, [0, -1, 1]),
    ("margin", [1, 2, 5], 2, True, NONE, -3, 2, 3, [0, -1, 1]),
    ("ce", [2, 2, 1], 2, True, NONE, 1, 2, -1 - LN2, [-0.5, -0.5, 1]),
    ("dlr", [4, 1, 3, 2], 0, True, NONE, -1, 0, 0.4, [0.24, 0.08, -0.4, 0.08]),
    ("dlr", [4, 1, 3, 2], 1, True, 0, 3, 1, -1.2, [0.08, 0.16, 0, -0.24]),  # label 0, as published
    ("dlr", [4, 1, 3], 0, True, NONE, -1, 0, 1 / 3, [2 / 9, 1 / 9, -1 / 3]),
]


def gain(
    core: Core, loss: str, logits: list[float], goal: int, targeted: bool, wanted: int
) -> tuple[float, int, float, np.ndarray]:
    """(margin, class, gain, slope), of logits that lie two apart."""
    spread = np.full((len(logits), 2), np.nan, F32)
    spread[:, 0] = logits
    slope = np.full_like(spread, 7.0)
    margin, value = np.full((2, 1), 9.0, F32)
    found = np.full(1, -9)
    core(
        "gain_of", spread, len(logits), 2, goal, targeted, LOSSES.index(loss), wanted, margin,
        value, found, slope,
    )  # fmt: skip
    assert (slope[:, 1] == 7).all()  # nothing between is written
    return margin.item(), found.item(), value.item(), slope[:, 0]


@pytest.mark.parametrize("case", GAINS, ids=str)
def test_gains_and_slopes_of_known_rows(core: Core, case: tuple) -> None:
    loss, logits, goal, targeted, wanted, margin, label, value, slope = case
    answer = gain(core, loss, logits, goal, targeted, wanted)
    assert answer[:2] == (margin, label)
    assert answer[2] == pytest.approx(value, rel=3e-7)  # a few roundings
    assert answer[3].tolist() == pytest.approx(slope, rel=3e-7)


@pytest.mark.parametrize(
    ("logits", "margin"),
    [
        ([3, 3], TINY),  # a tie is not yet the wanted class
        ([0, 1e-39], TINY),
        ([0, 1.5 * TINY], 1.5 * TINY),
        ([1e-39, 0], -1e-39),
        ([math.nan, 0], math.inf),
        ([0, math.nan], math.inf),
        ([math.inf, math.inf], math.inf),
        ([-math.inf, 0], math.inf),
        ([math.inf, 0], -math.inf),
    ],
)
def test_margins_of_a_target(core: Core, logits: list[float], margin: float) -> None:
    answer = gain(core, "margin", logits, 0, True, NONE)
    assert answer[:2] == (F32(margin), 0)


def test_a_nan_is_an_error_and_the_best_class(core: Core) -> None:
    margin, label, value, slope = gain(core, "margin", [0, 9, math.nan, 5, math.nan], 0, False, -1)
    assert math.isnan(margin)
    assert math.isnan(value)
    assert label == 2
    assert slope.tolist() == [-1, 0, 1, 0, 0]


def autograd(loss: str, logits: Tensor, goal: int, targeted: bool) -> Tensor:
    """The gain in its definition, differentiable."""
    others = torch.cat([logits[:goal], logits[goal + 1 :]])
    value = (others.logsumexp(0) if loss == "ce" else others.max()) - logits[goal]
    if loss == "dlr":
        ranked = logits.sort(descending=True).values
        third = min(2, len(logits) - 1)
        low = ranked[third : third + 2].mean() if targeted else ranked[third]
        value = value / (ranked[0] - low)
    return value


@pytest.mark.parametrize("loss", LOSSES)
def test_slopes_are_the_gradients_of_the_gain(core: Core, loss: str) -> None:
    generator = np.random.default_rng(LOSSES.index(loss))
    for classes in (2, 3, 4, 10):
        for goal in (0, 1, classes - 1):
            logits = generator.permutation(classes) * 0.75 + generator.random(classes) / 2
            logits = logits.astype(F32)
            wide = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
            for targeted, sign in ((False, 1), (True, -1)):
                expected = autograd(loss, wide, goal, targeted)
                (right,) = torch.autograd.grad(expected, wide)
                _, _, value, slope = gain(core, loss, logits.tolist(), goal, targeted, NONE)
                # a float32's rounding of numbers below 10, divided by a spread of at least 1/4
                assert value == pytest.approx(sign * expected.item(), rel=1e-5, abs=1e-5)
                assert slope == pytest.approx(sign * right.numpy(), rel=1e-5, abs=1e-5)


# -- ball.h ------------------------------------------------------------------------------------


def test_lanes_are_added_by_halves(core: Core) -> None:
    for lanes in np.random.default_rng(0).standard_normal((20, 256)):
        expected = lanes
        while len(expected) > 1:
            half = len(expected) // 2
            expected = expected[:half] + expected[half:]
        assert core("lanes_sum", lanes.copy()) == expected[0]
    for lane in (0, 1, 127, 128, 255):
        alone = np.zeros(256)
        alone[lane] = 3.0
        assert core("lanes_sum", alone) == 3.0


def test_what_gives_a_direction(core: Core) -> None:
    for squared, right in (
        *[(5e-324, True), (1.0, True), (1.7e308, True)],
        *[(0.0, False), (-0.0, False), (-1.0, False), (math.inf, False), (math.nan, False)],
    ):
        assert core("usable", np.float64(squared)) == right, squared


def test_clip_keeps_what_is_inside_and_nan(core: Core) -> None:
    for value, right in ((-2.0, -1.0), (-1.0, -1.0), (0.25, 0.25), (0.5, 0.5), (9.0, 0.5)):
        assert core("clipped", value, -1.0, 0.5) == right
    assert core("clipped", -math.inf, -1.0, 0.5) == -1.0
    assert core("clipped", math.inf, -1.0, 0.5) == 0.5
    assert math.isnan(core("clipped", math.nan, -1.0, 0.5))


@pytest.mark.parametrize(
    ("squared", "product", "scale", "step", "radius", "sphere", "old", "move"),
    [
        # the offset is of length 3, the gradient of length 2 at right angles to it
        (4.0, 0.0, 1.0, 8.0, 10.0, False, 1.0, 4.0),
        (4.0, 0.0, 1.0, 4.0, 10.0, False, 1.0, 2.0),
        (4.0, 0.0, 1.0, 4.0, 5.0, False, 1.0, 2.0),
        (4.0, 0.0, 1.0, 4.0, 2.5, False, 0.5, 1.0),
        (4.0, 0.0, 1.0, 4.0, 10.0, True, 2.0, 4.0),
        (4.0, 0.0, 1.0, 4.0, 0.0, False, 0.0, 0.0),
        # along it: |3 scale + step|
        (4.0, 6.0, 1.0, 4.0, 3.5, False, 0.5, 1.0),
        (4.0, 6.0, 2.0, 2.0, 4.0, False, 1.0, 0.5),
        (4.0, -6.0, 2.0, 2.0, 2.0, False, 1.0, 0.5),
        # no direction: the offset alone is scaled and shortened
        (0.0, 0.0, 1.0, 4.0, 1.5, False, 0.5, 0.0),
        (math.inf, math.nan, 1.0, 4.0, 1.5, False, 0.5, 0.0),
        (math.nan, math.nan, 2.0, 4.0, 3.0, False, 1.0, 0.0),
        (math.nan, math.nan, 2.0, 4.0, 12.0, True, 4.0, 0.0),
    ],
)
def test_coefficients_of_an_l2_step(
    core: Core,
    squared: float,
    product: float,
    scale: float,
    step: float,
    radius: float,
    sphere: bool,
    old: float,
    move: float,
) -> None:
    out = np.full(2, np.nan)
    given = map(np.float64, (squared, product, 9.0))
    core("step_l2", *given, scale, step, radius, sphere, out)
    assert out.tolist() == [old, move]


def test_no_offset_on_the_sphere_stays(core: Core) -> None:
    out = np.full(2, np.nan)
    core("step_l2", *map(np.float64, (0.0, 0.0, 0.0)), 1.0, 1.0, 5.0, True, out)
    assert out.tolist() == [1.0, 0.0]


def test_a_moved_element_is_rounded_once(core: Core) -> None:
    generator = np.random.default_rng(3)
    for _ in range(50):
        offset, gradient = generator.standard_normal(2).astype(F32)
        old, move = generator.standard_normal(2)
        expected = F32(float(offset) * old + float(gradient) * move)
        got = core(
            "moved_l2", float(offset), float(gradient), np.float64(old), np.float64(move), True
        )
        assert got == expected
    assert core("moved_l2", 2.0, math.nan, np.float64(0.5), np.float64(3.0), False) == 1.0


@pytest.mark.parametrize(
    ("offset", "gradient", "scale", "usable", "expected"),
    [
        (0.25, 3.0, 1.0, True, 0.5),
        (0.25, 1e-40, 1.0, True, 0.5),
        (0.25, -3.0, 1.0, True, 0.0),
        (0.25, 0.0, 1.0, True, 0.25),
        (0.25, -0.0, 1.0, True, 0.25),
        (0.25, math.nan, 1.0, True, 0.25),
        (0.25, 3.0, 1.0, False, 0.25),
        (0.25, 3.0, 2.0, True, 0.75),
        (0.75, 3.0, 2.0, True, 0.875),
        (-0.75, -3.0, 2.0, True, -0.875),
        (-0.75, 3.0, 1.0, True, -0.5),
    ],
)
def test_an_element_moved_in_linf(
    core: Core, offset: float, gradient: float, scale: float, usable: bool, expected: float
) -> None:
    assert core("moved_linf", offset, gradient, scale, 0.25, 0.875, usable) == expected


# -- block.h -----------------------------------------------------------------------------------


def test_a_phase_is_run_by_all_threads_before_the_next(core: Core) -> None:
    before, after = np.full((2, 5), -1)
    core("block_phases", before, after)
    assert before.tolist() == [10, 11, 12, 13, 14]
    assert (after - 700 - 15000).tolist() == [11, 12, 13, 14, 10]


def test_a_contracted_product_is_rounded_once(core: Core) -> None:
    a = 1 + 2.0**-12  # its square, 1 + 2^-11 + 2^-24, is a tie of float32
    assert core("fused_product", a, a, -1.0) == 2.0**-11 + 2.0**-24
