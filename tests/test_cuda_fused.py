"""Fused networks in CUDA C++, run as in test_cuda.py."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere import DEVICE
from fused_models import _dense, band, in_doubt, model, noisy_images, slots
from torch import nn

import robustcore as rc
from robustcore import kernels
from robustcore.evaluator import Evaluator
from robustcore.fused import pack
from robustcore.fused.native import ISAS, NativeNet
from robustcore.fused.packed import Layer, Packed
from robustcore.fused.reference import ReferenceNet


@pytest.mark.parametrize("name", ["linear", "mlp", "four"])
def test_fused_networks_have_the_bits_of_the_cpu(cuda, name):
    module, shape = model(name)
    packed, arguments = pack(module, shape), slots(shape)
    net = cuda.CudaNet(packed, "cpu")
    got = net.logits(*arguments, seed=2**63 - 5, stream=3)
    if {"avx512", "avx2"} & set(ISAS):  # the one without contraction rounds otherwise
        assert torch.equal(got, NativeNet(packed).logits(*arguments, seed=2**63 - 5, stream=3))
    wide = ReferenceNet(packed, torch.float64)
    want = wide.logits(*arguments, seed=2**63 - 5, stream=3)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)
    x, _, _, _, ids = arguments
    grid, labels = torch.tensor([0.0, 0.3, 2.0]), packed(x).argmax(1)
    counts, expected = torch.zeros(5, 3, dtype=torch.int64), torch.zeros(5, 3, dtype=torch.int64)
    for body, out in ((net, counts), (NativeNet(packed), expected)):
        body.count_errors(x, labels, grid, ids, (3, 41), out, seed=1)
    assert torch.equal(counts, expected)
    assert int(counts.sum()) > 0
    with pytest.raises(ValueError, match="clip must be None for a dense fused network in CUDA"):
        net.logits(*arguments, seed=0, clip=(0, 1))


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_that_is_no_class_reads_nothing_and_is_an_error(cuda, label):
    module, shape = model("mlp")
    packed, (x, _, _, _, ids) = pack(module, shape), slots(shape)
    for net in (cuda.CudaNet(packed, "cpu"), NativeNet(packed)):
        counts = torch.zeros(5, 1, dtype=torch.int64)
        labels = torch.full((5,), label)
        net.count_errors(x, labels, torch.tensor([0.3]), ids, (0, 7), counts, seed=1)
        assert counts.flatten().tolist() == [7] * 5


@pytest.mark.parametrize("width", [130, 600, 1024])
def test_wide_layers_are_divided_among_threads(cuda, width):

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(width)
        packed = pack(_dense(70, width, 40, 3).eval(), (1, 7, 10))
    arguments = slots((1, 7, 10), 37)
    got = cuda.CudaNet(packed, "cpu").logits(*arguments, seed=0)
    want = ReferenceNet(packed, torch.float64).logits(*arguments, seed=0)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)


CONVOLVED = ("chain", "awkward", "strided")


def first_alone(name):
    """The first layer of a network, and its answers one by one as logits."""
    module, shape = model(name)
    packed = pack(module, shape)
    first = packed.layers[0]
    with torch.no_grad():
        answers = first(torch.zeros(1, *shape)).numel()
    return Packed(shape, (first, Layer(torch.eye(answers), torch.zeros(answers))))


def wide(stride, padding, kernel, channels, pool):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(channels)
        conv = nn.Conv2d(2, channels, kernel, stride, padding)
        bias, fill = torch.randn(channels), torch.randn(2) if max(padding) else None
    layer = Layer(conv.weight.detach(), bias, stride, padding, (1, 1), fill, channels > 3, pool)
    answers = layer(torch.zeros(1, 2, 9, 11)).numel()
    return Packed((2, 9, 11), (layer, Layer(torch.eye(answers), torch.zeros(answers))))


FIRSTS = {
    **{name: lambda name=name: first_alone(name) for name in CONVOLVED},
    "one channel, as large as the image": lambda: wide((1, 1), (0, 0), (9, 10), 1, 1),
    "many channels": lambda: wide((3, 2), (2, 4), (2, 5), 19, 1),
    "maximum without padding": lambda: wide((1, 2), (0, 0), (1, 3), 8, 2),
    "maximum of 3": lambda: wide((1, 1), (1, 1), (3, 3), 3, 3),
}


@pytest.mark.parametrize("clip", [None, (0.2, 0.9)])
@pytest.mark.parametrize("name", FIRSTS)
def test_first_convolutions_have_the_bits_of_the_cpu(cuda, name, clip):
    packed = FIRSTS[name]()
    arguments = slots(packed.shape, 29)
    names = {"seed": 2**63 - 5, "stream": 3, "clip": clip}
    net = cuda.CudaConvolvedNet(packed, "cpu")
    got, want = net.logits(*arguments, **names), NativeNet(packed).logits(*arguments, **names)
    if {"avx512", "avx2"} & set(ISAS):  # the one without contraction rounds otherwise
        assert torch.equal(got, want)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    other = net.logits(*arguments, **{**names, "seed": 1})
    assert not torch.equal(other, want)
    x, rows, sigma, samples, ids = arguments
    some = torch.randperm(29, generator=torch.Generator().manual_seed(0))[:11]
    alone = net.logits(x, rows[some], sigma[some], samples[some], ids, **names)
    assert torch.equal(alone, got[some])


def test_a_nan_is_the_largest_of_a_square(cuda):
    packed = wide((1, 2), (0, 0), (1, 3), 8, 2)
    x, rows, sigma, samples, ids = slots(packed.shape, 9)
    x[1, 0, 4, 4] = torch.nan
    got = cuda.CudaConvolvedNet(packed, "cpu").logits(x, rows, sigma, samples, ids, seed=0)
    want = NativeNet(packed).logits(x, rows, sigma, samples, ids, seed=0)
    assert bool(got.isnan().any())
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
@pytest.mark.parametrize("name", CONVOLVED)
def test_convolutional_networks_are_the_reference_outside_the_rounding_band(cuda, name, clip):
    module, shape = model(name)
    packed, arguments = pack(module, shape), slots(shape)
    names = {"seed": 5, "stream": 7, "clip": clip}
    net = cuda.CudaConvolvedNet(packed, "cpu")
    getattr(net, "inside", net).at_once = 31  # so that a round is cut
    with torch.backends.cudnn.flags(allow_tf32=False):
        got = net.logits(*arguments, **names).double()
    want = ReferenceNet(packed, torch.float64).logits(*arguments, **names)
    allowed = band(packed, noisy_images(arguments, **names))
    assert bool(((got - want).abs() <= allowed).all())


@pytest.mark.parametrize(("name", "clip"), [("chain", (0.0, 1.0)), ("awkward", None)])
def test_convolutional_counts_are_the_reference_outside_the_rounding_band(cuda, name, clip):
    module, shape = model(name)
    packed, x, ids = pack(module, shape), slots(shape)[0], torch.arange(5)
    grid, names = torch.tensor([0.0, 0.1, 0.4, 1.5]), {"seed": 5, "clip": clip}
    labels, net = packed(x).argmax(1), cuda.CudaConvolvedNet(packed, "cpu")
    counts, expected, other = torch.full((3, 5, 4), 100)
    with torch.backends.cudnn.flags(allow_tf32=False):
        for first, n in ((0, 100), (100, 200)):
            net.count_errors(x, labels, grid, ids, (first, n), counts, **names)
        net.count_errors(x, labels, grid, ids, (0, 300), other, **{**names, "seed": 6})
    exact = ReferenceNet(packed, torch.float64)
    exact.count_errors(x, labels, grid, ids, (0, 300), expected, **names)
    inside = in_doubt(packed, x, labels, grid, 300, **names)
    assert bool(((counts - expected).abs() <= inside).all())
    assert float(inside[:, 1:].double().mean()) < 0.02 * 300
    assert not bool(((other - expected).abs() <= inside).all())


def test_the_engine_takes_a_packed_convolutional_network_and_says_so(cuda, monkeypatch):
    module, shape = model("chain")
    x = slots(shape)[0].to(DEVICE)
    if DEVICE == "cpu":
        monkeypatch.setattr(kernels, "unavailable", lambda backend, device: None)
    packed, how = pack(module, shape), {"samples": 200}
    with torch.backends.cudnn.flags(allow_tf32=False):
        got = rc.error_rate(rc.Engine(packed, backend="cuda"), x, [0.2, 0.5], **how)
        want = rc.error_rate(rc.Engine(packed, backend="reference"), x.cpu(), [0.2, 0.5], **how)
    assert got.provenance.notes == (f"fused from noise to its first convolution: {packed}",)
    assert int(np.abs(got.n_errors - want.n_errors).sum()) <= 1  # of 2,000: rounding
    assert got.n_errors.sum() > 50
    # what has no room on chip is called as it is
    large = nn.Sequential(nn.Conv2d(3, 2, 3, 40), nn.Flatten(), nn.Linear(18, 2)).eval()
    images = torch.rand(2, 3, 100, 100, device=DEVICE)
    record = rc.error_rate(
        rc.Engine(pack(large, (3, 100, 100)), backend="cuda"), images, 0.2, **how
    )
    assert not any("fused" in note for note in record.provenance.notes)


@pytest.mark.parametrize("name", ["mlp", "chain"])
def test_an_ordinary_module_is_fused_on_backends_that_are_unasked(cuda, monkeypatch, name):
    module, shape = model(name)
    x = slots(shape)[0].to(DEVICE)
    if DEVICE == "cpu":
        monkeypatch.setattr(kernels, "unavailable", lambda backend, device: None)
    module = module.to(DEVICE)
    assert Evaluator(rc.Engine(module, backend="cuda"), x).fused is None
    monkeypatch.setattr("robustcore.fused.UNASKED", ("native", "cuda"))
    engine = Evaluator(rc.Engine(module, backend="cuda"), x)
    assert engine.fused is not None
    assert engine.fused.note in engine.notes


def test_wrong_networks_and_wrong_tensors_are_refused(cuda):
    module, shape = model("chain")
    packed = pack(module, shape)
    with pytest.raises(ValueError, match="packed must begin with a linear layer"):
        cuda.CudaNet(packed, "cpu")
    with pytest.raises(ValueError, match="packed must begin with a convolution, was 1x10x15"):
        cuda.CudaConvolvedNet(pack(*model("linear")), "cpu")
    large = replace(packed, shape=(3, 90, 90))
    with pytest.raises(ValueError, match=r"at most 24576 numbers with their padding, was .* 25392"):
        cuda.CudaConvolvedNet(large, "cpu")
    net, (x, row, sigma, samples, ids) = cuda.CudaConvolvedNet(packed, "cpu"), slots(shape, 5)
    with pytest.raises(ValueError, match=r"x must be torch.float32 of shape \(5, 3, 10, 8\)"):
        net.logits(x[..., :7], row, sigma, samples, ids, seed=0)
    with pytest.raises(ValueError, match="sigma must be"):
        net.logits(x, row, sigma.double(), samples, ids, seed=0)
    with pytest.raises(ValueError, match=r"counts must be torch.int64 of shape \(5, 5\)"):
        net.count_errors(x, ids, sigma, ids, (0, 9), torch.zeros(5, 4), seed=0)
