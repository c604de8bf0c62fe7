"""The arithmetic of runs by hand: blocks, what two models may differ by, one provenance of many."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import robustcore as rc
from robustcore.results.archive import fits
from robustcore.runs.behaviour import Behaviour, behaviour, difference, probes
from robustcore.runs.identity import plain
from robustcore.runs.store import merged, ran_out
from robustcore.runs.whole import _has_entries, _largest, spans
from robustcore.sources import open_source


def test_a_block_is_a_128th_of_what_is_left_between_its_bounds():
    found = spans(5000, 1000, 8)
    assert found[:3] == [(0, 39), (39, 77), (77, 115)]  # 5000, 4961 and 4923 over 128
    sizes = np.diff(found, axis=1)[:, 0]
    assert (sizes[:-1] >= 8).all()
    assert (np.diff(sizes) <= 0).all()
    assert found[-1][1] == 5000
    assert all(a[1] == b[0] for a, b in pairwise(found))
    assert spans(5000, 30, 8)[:2] == [(0, 30), (30, 60)]
    assert spans(20, 100, 8) == [(0, 8), (8, 16), (16, 20)]
    assert spans(10, 4, None) == [(0, 4), (4, 8), (8, 10)]
    assert spans(8, 4, None) == [(0, 4), (4, 8)]
    assert spans(0, 4) == []


def test_the_largest_block_is_a_share_of_a_batch_within_bounds():
    class Source:
        shape = (3, 32, 32)

    # 3 * 2^17 pixels a batch: 128 images of 3,072
    cpu = torch.device("cpu")
    assert _largest(None, Source, cpu, 1) == 128
    assert _largest(None, Source, cpu, 4) == 32
    assert _largest(500, Source, cpu, 10) == 50
    assert _largest(None, Source, cpu, 1000) == _largest(1, Source, cpu, 1) == 4
    assert _largest(10**6, Source, cpu, 1) == 256


def held(outputs, spread=0.0, rounding=0.0):
    outputs = np.array(outputs, np.float32)
    return Behaviour(outputs, np.full(outputs.shape[1], spread, np.float32), rounding)


# Three inputs and three logits: the largest of each logit are 8, 4 and 2, so of sizes 8, 4 and 4,
# the median; without the median of each row, 2, they are 6, 2, 1: sizes 6, 2 and 2.
WAS = np.array([[8.0, 2.0, 1.0], [1.0, 4.0, 2.0], [2.0, 2.0, 2.0]])


@pytest.mark.parametrize(("logit", "explained"), [(0, 6 / 4096), (1, 2 / 4096), (2, 2 / 4096)])
def test_a_4096th_of_how_logits_differ_is_explained(logit, explained):
    for share, told in ((0.9, False), (1.1, True)):
        for sign in (1, -1):
            now = WAS.copy()
            now[2, logit] += sign * share * explained
            assert (difference(held(WAS), held(now)) is not None) == told


def test_sixteen_roundings_and_four_times_both_spreads_are_explained():
    rounding, spread = 2.0**-10, 0.01
    now = WAS.copy()
    for moved, told in ((0.9, False), (1.1, True)):
        now[1, 1] = 4 + moved * (2 / 4096 + 16 * rounding * 4)
        assert (difference(held(WAS, 0, rounding), held(now)) is not None) == told
        assert (difference(held(WAS), held(now, 0, rounding)) is not None) == told
        now[1, 1] = 4 + moved * (2 / 4096 + 4 * (spread + 3 * spread))
        assert (difference(held(WAS, spread), held(now, 3 * spread)) is not None) == told


def test_a_difference_names_the_logit_and_the_input_that_are_farthest_off():
    now = WAS.copy()
    now[0, 1], now[2, 2] = 2.5, 5.0
    assert difference(held(WAS), held(now)).startswith("logit 2 of input 2 of 3 was 2, is 5;")
    gone = WAS.copy()
    gone[1, 0] = np.nan
    assert "logit 0 of input 1" in difference(held(WAS), held(gone))
    assert difference(held(gone), held(gone)) is None
    endless = WAS.copy()
    endless[1, 0] = np.inf
    assert difference(held(endless), held(endless)) is None
    assert "logit 0 of input 1" in difference(held(endless), held(gone))
    assert difference(held(WAS), held(WAS[:2])).startswith("its logits had shape (3, 3), have (2")


def test_a_model_is_asked_about_images_these_with_noise_and_noise_alone():
    x = 0.2 + 0.5 * torch.rand(2, 1, 3, 3, generator=torch.Generator().manual_seed(4))
    chance = torch.Generator().manual_seed(0)
    little, much = (torch.randn(x.shape, generator=chance) for _ in range(2))
    low, scale = float(x.min()), float(x.max()) - float(x.min())
    uniform = low + scale * torch.rand(x.shape, generator=chance)
    want = torch.cat([x, x + 0.05 * scale * little, x + 0.3 * scale * much, uniform])
    torch.testing.assert_close(probes(x.double()), want)
    assert not probes(x.requires_grad_()).requires_grad
    flat = probes(torch.full((1, 1, 2, 2), 0.5))  # of no range: that of 1
    assert float((flat[1:2] - 0.5).abs().max()) > 0.01


@pytest.mark.parametrize(("kind", "digits"), [(torch.bfloat16, 8), (torch.float16, 11)])
def test_a_model_is_asked_again_with_inputs_that_are_four_roundings_larger(kind, digits):
    class First(torch.nn.Module):
        """Its logits are the first three numbers of an image."""

        def __init__(self):
            super().__init__()
            self.none = torch.nn.Parameter(torch.zeros(1, dtype=kind))

        def forward(self, t):
            return t.flatten(1)[:, :3]

    x = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    found = behaviour(rc.Engine(First(), batch_size=None), open_source(x, None, First()))
    asked = probes(x.to(kind)).flatten(1)[:, :3]
    given, larger = ((asked * factor).to(kind).float() for factor in (1.0, 1 + 4 * 2.0**-digits))
    assert found.rounding == 2.0**-digits
    assert torch.equal(torch.from_numpy(found.outputs), given)
    assert torch.equal(torch.from_numpy(found.spread), (given - larger).abs().amax(0))


def test_what_a_model_answers_is_kept_although_it_returns_the_same_memory():
    class Same(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("held", torch.zeros(100, 2))

        def forward(self, t):
            self.held[: len(t)] = t.flatten(1)[:, :2]
            return self.held[: len(t)]

    x = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    found = behaviour(rc.Engine(Same(), batch_size=3), open_source(x, None, Same()))
    assert torch.equal(torch.from_numpy(found.outputs), probes(x).flatten(1)[:, :2])
    assert (found.spread > 0).all()


def test_a_model_that_writes_to_its_input_is_asked_the_same_again():
    def model(t):
        answer = t.flatten(1)[:, :2].clone()
        t.zero_()
        return answer

    x = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    found, want = (
        behaviour(rc.Engine(each, batch_size=3), open_source(x, None, each))
        for each in (model, lambda t: t.flatten(1)[:, :2])
    )
    assert np.array_equal(found.outputs, want.outputs)
    assert np.array_equal(found.spread, want.spread)


def part(**more):
    return {
        "notes": ["a"], "compile_seconds": 1.0, "batch_size": 8, "randomized": False,
        "images": {"0": "x"}, "seconds": 5.0, "seed": 3,
    } | more  # fmt: skip


def test_blocks_have_one_provenance():
    other = part(
        notes=["b", "a"], compile_seconds=2.0, batch_size=4, randomized=True, images={"1": "y"}
    )
    found = merged([part(), other], 7.5, 1)
    assert found == {
        "notes": ["a", "b", "measured in 2 blocks"], "compile_seconds": 3.0, "batch_size": 4,
        "randomized": True, "images": {"0": "x", "1": "y"}, "seconds": 7.5, "seed": 3,
    }  # fmt: skip
    assert merged([part()], 1.0, 1)["notes"][-1] == "measured in 1 block"
    assert merged([part()], 1.0, 2)["notes"][-1] == "measured in 1 block, 2 sessions"
    assert not merged([part(), part()], 1.0, 1)["randomized"]


def test_a_halved_batch_is_known_by_its_note():
    assert ran_out(["compiled", "out of memory: batch size halved to 4"])
    assert not ran_out(["the model ran out of memory"])


def test_settings_are_kept_as_plain_values():
    numbers = np.array([1.0, 2.0])
    assert plain(numbers) == plain(torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert plain(numbers) == plain(np.array([5.0, 1.0, 5.0, 2.0])[1::2])  # whatever its strides
    assert plain(numbers) != plain(numbers[::-1])
    assert plain(numbers) != plain(numbers.astype(np.float32))
    assert plain(torch.tensor(3)) == plain(np.int64(3)) == 3
    assert plain([np.float32(0.5), (True, None, "a")]) == [0.5, [True, None, "a"]]
    assert plain({"far": -np.inf, 2: np.nan}) == {"far": "-inf", "2": "nan"}
    assert plain(b"text") == "b'text'"
    kept = plain(plain)
    assert kept.pop("callable") == "plain"
    assert kept.keys() == {"structure", "weights", "code"}


def test_entries_are_one_for_each_image():
    assert _has_entries([1.0, 2.0], 1, 2)
    assert not _has_entries([1.0, 2.0], 1, 3)
    assert not _has_entries([[1.0], [2.0]], 1, 2)
    assert not _has_entries(1.0, 1, 1)
    assert not _has_entries(object(), 1, 2)


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (float, [1.5, 2], [True, "1", None]),
        (int, [3], [True, 3.0, "3"]),
        (bool, [True], [1]),
        (str, ["a"], [1]),
        (float | None, [None, 0.5], ["a", False]),
        (tuple[str, ...], [["a", "b"], ("a",), []], ["ab", [1]]),
        (dict[str, float], [{"a": 1.0}, {}], [{"a": "b"}, ["a"]]),
    ],
)
def test_a_value_of_a_file_is_of_the_kind_that_the_record_names(hint, right, wrong):
    assert all(fits(value, hint) for value in right)
    assert not any(fits(value, hint) for value in wrong)
