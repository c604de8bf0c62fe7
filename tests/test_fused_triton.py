"""Fused networks in Triton: these tests run again in its interpreter, in a process of theirs.

Compiled for each architecture they are in triton_aot.py, with every other kernel.
"""

import re

import pytest
import torch
from elsewhere import DEVICE, INTERPRETED, Elsewhere
from fused_models import model, slots
from test_kernels_triton import run

from robustcore.fused import pack
from robustcore.fused.packed import Layer, Packed
from robustcore.fused.reference import ReferenceNet
from robustcore.kernels import unavailable

pytestmark = pytest.mark.skipif(
    unavailable("triton", "cuda") is not None, reason=str(unavailable("triton", "cuda"))
)
inside = pytest.mark.skipif(
    not INTERPRETED and DEVICE == "cpu", reason="run in the interpreter by the last test here"
)


@pytest.fixture
def net():
    from robustcore.fused.triton import TritonNet
    from robustcore.fused.triton_convolved import TritonConvolvedNet

    def made(packed):
        return Elsewhere((TritonNet if packed.dense else TritonConvolvedNet)(packed, DEVICE))

    return made


@inside
@pytest.mark.parametrize("name", ["linear", "mlp", "four", "chain", "strided"])
@torch.backends.cudnn.flags(allow_tf32=False)
def test_logits_and_counts_are_those_of_the_reference(net, name):
    module, shape = model(name)
    packed = pack(module, shape)
    few = not packed.dense  # a program makes one slot of them, at once 16 of the others
    arguments, draws = slots(shape, 9 if few else 37), 3 if few else 19
    names = {"seed": 2**63 - 5, "stream": 2**32 - 1}
    got = net(packed).logits(*arguments, **names)
    want = ReferenceNet(packed, torch.float64).logits(*arguments, **names)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)
    other = ReferenceNet(packed, torch.float64).logits(*arguments, seed=1)
    assert float((got - other).abs().max()) > 1e-3
    x, _, _, _, ids = arguments
    grid, labels = torch.tensor([0.0, 0.3, 2.0]), packed(x).argmax(1)
    counts, expected = torch.zeros(2, 5, 3, dtype=torch.int64)
    for body, out in ((net(packed), counts), (ReferenceNet(packed), expected)):
        body.count_errors(x, labels, grid, ids, (2**32 - 20, draws), out, **names)
    assert torch.equal(counts, expected)
    assert int(counts.sum()) > 0


@inside
@pytest.mark.parametrize("name", ["mlp", "strided"])
def test_programs_take_one_tile_after_another(net, name, monkeypatch):
    """In memory that holds the numbers of the last."""
    module, shape = model(name)
    packed = pack(module, shape)
    arguments = slots(shape, 50 if packed.dense else 3)
    want = net(packed).logits(*arguments, seed=3)
    monkeypatch.setattr("robustcore.fused.triton.FLOATS", 10_000 if packed.dense else 1)
    assert torch.equal(net(packed).logits(*arguments, seed=3), want)


@inside
def test_features_ties_and_nan(net):
    module, shape = model("mlp")
    packed, arguments = pack(module, shape, draws="features"), slots(shape, 5)
    got = net(packed).logits(*arguments, seed=0)
    want = ReferenceNet(packed, torch.float64).logits(*arguments, seed=0)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)
    x, labels = arguments[0][:1], torch.zeros(1, dtype=torch.int64)
    grid, ids = torch.tensor([0.5]), labels
    for bias, errors in ((1.0, 0), (0.0, 20), (float("nan"), 20), (float("inf"), 0)):
        flat = pack(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)), shape)
        flat.layers[0].weight.zero_()
        flat.layers[0].bias.copy_(torch.tensor([bias, 0.0]))
        counts = torch.zeros(1, 1, dtype=torch.int64)
        net(flat).count_errors(x, labels, grid, ids, (0, 20), counts, seed=0)
        assert int(counts) == errors


@inside
def test_convolutions_clip_and_propagate_nan(net):
    module, shape = model("chain")
    packed, (x, rows, *names) = pack(module, shape), slots(shape, 5)
    x[4, 0, 3, 3] = torch.nan
    with torch.backends.cudnn.flags(allow_tf32=False):
        got = net(packed).logits(x, rows, *names, seed=0, clip=(0.3, 0.6))
    want = ReferenceNet(packed, torch.float64).logits(x, rows, *names, seed=0, clip=(0.3, 0.6))
    assert bool((got.isnan().any(1) == (rows == 4)).all())
    assert bool((rows == 4).any())
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5, equal_nan=True)


@inside
def test_what_is_not_fused_is_refused(net):
    from robustcore.fused.triton import TritonNet

    module, shape = model("chain")
    with pytest.raises(ValueError, match="packed must begin with a linear layer"):
        TritonNet(pack(module, shape), DEVICE)
    module, shape = model("mlp")
    with pytest.raises(ValueError, match="clip must be None for a dense fused network in Triton"):
        net(pack(module, shape)).logits(*slots(shape, 5), seed=0, clip=(0, 1))


def test_a_network_of_too_many_weights_is_not_fused():
    from robustcore.fused import _body

    wide = torch.zeros(1).expand(2**10, 2**21)
    layer = Layer(wide[:2], torch.zeros(2))
    small = Packed((2, 2**10, 2**10), (layer,))
    assert not isinstance(_body(small, "triton", torch.device(DEVICE), None), ReferenceNet)
    large = Packed(small.shape, (Layer(wide, torch.zeros(2**10)),))
    assert isinstance(_body(large, "triton", torch.device(DEVICE), None), ReferenceNet)


@pytest.mark.skipif(INTERPRETED, reason="starts the interpreter")
def test_all_of_these_pass_in_the_interpreter():
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, interpret=True)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) == 11
