"""pack: what it takes, that it computes the same, and what it says of what it cannot take."""

import math
from functools import partial

import pytest
import torch
from fused_models import MODELS, Chain, _dense, model
from torch import nn

import robustcore as rc
from robustcore.fused import NotPackable, pack


def images(shape, n=6):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MODELS)
def test_a_packed_network_computes_what_the_module_does(name):
    module, shape = model(name)
    x = images(shape).double()
    packed = pack(module, shape)
    with torch.no_grad():
        # weights are folded in float64 and kept in float32
        torch.testing.assert_close(packed(x), module.double()(x), rtol=1e-5, atol=1e-6)


def test_padding_is_that_of_the_normalised_image():
    module, shape = model("chain")
    packed = pack(module, shape)
    assert packed.layers[0].fill is not None
    black = torch.zeros(1, *shape)
    with torch.no_grad():
        torch.testing.assert_close(packed(black), module(black), rtol=1e-5, atol=1e-6)


def test_a_packed_network_says_what_it_is():
    module, shape = model("strided")
    assert str(pack(module, shape)) == "1x18x18, conv 6 4x4, conv 9 3x3, conv 4 2x2, 11, 4"


def test_later_changes_of_the_module_do_not_reach_the_packed_network():
    module, shape = model("mlp")
    packed = pack(module, shape)
    before = packed(images(shape))
    nn.init.zeros_(module[1].weight)
    assert torch.equal(packed(images(shape)), before)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(192, 2)

    def forward(self, x):
        return self.out((x + self.conv(x)).flatten(1))


class Counting(nn.Module):
    """Keeps what it sees: tracing it would leave a trace."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x)


class Listing(Counting):
    def forward(self, x):
        SEEN.append(x)
        return self.inner(x)


SEEN: list[torch.Tensor] = []


class Twice(nn.Module):
    """Forgets what it made of the logits."""

    def __init__(self):
        super().__init__()
        self.inner, self.other = _dense(192, 2), nn.Linear(2, 2)

    def forward(self, x):
        answer = self.inner(x)
        self.other(getattr(answer, "logits", answer))
        return answer


class Asking(Counting):
    """Asks itself for a method by its name."""

    def forward(self, x):
        return getattr(self, "count", None)(x)

    def count(self, x):
        return Counting.forward(self, x)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(192, 2)

    def forward(self, x):
        return self.out(x.flatten(1) + torch.rand(1))


def hooked(kind):
    module = _dense(192, 2)
    getattr(module[1], f"register_{kind}_hook")(lambda *_: None)
    return module


def own_forward():
    module = _dense(192, 2)
    module[1].forward = lambda x: -nn.functional.linear(x, module[1].weight)
    return module


def spoilt(value):
    module = _dense(192, 2).double()
    with torch.no_grad():
        module[1].weight[1, 7] = value
    return module


class Named(nn.Module):
    """Arguments by their names, in any order."""

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.rand(3, 192)), nn.Parameter(torch.rand(3))

    def forward(self, x):
        x = torch.flatten(input=x, start_dim=1)
        return nn.functional.linear(bias=self.b, input=x, weight=self.w)


def flat(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2))


REFUSED = {
    "its 'conv' had groups": (lambda: flat(nn.Conv2d(3, 6, 3, groups=3)), "'0' has groups"),
    "gelu": (lambda: flat(nn.Conv2d(3, 4, 3), nn.GELU()), "its '1' was a GELU"),
    "average": (lambda: flat(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2)), "its '1' was a AvgPool2d"),
    "overlap": (lambda: flat(nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2)), "squares side by side"),
    "circular": (lambda: flat(nn.Conv2d(3, 4, 3, padding_mode="circular")), "padding mode"),
    "relu first": (lambda: flat(nn.ReLU()), "'0' does not come after a linear layer"),
    "branch": (Residual, "is part of a branch"),
    "logits twice": (Twice, "'getattr_1' is part of a branch"),
    "by name": (Asking, "it used 'getattr'"),
    "wrapped function": (lambda: rc.wrap(lambda x: x.flatten(1), 0.5, 0.5), "it used 'model'"),
    "state": (Counting, "it stored calls"),
    "list": (Listing, "it used 'SEEN'"),
    "random": (Noisy, "it used 'rand'"),
    **{
        kind: (partial(hooked, kind), "its '1' had hooks")
        for kind in ("forward", "forward_pre", "full_backward", "full_backward_pre")
    },
    "softmax": (lambda: nn.Sequential(*_dense(192, 3), nn.Softmax(1)), "was a Softmax"),
    "relu last": (
        lambda: nn.Sequential(*_dense(192, 3), nn.ReLU()),
        "must end with its linear layer '1' to be packed, had more after it",
    ),
    "scaled last": (
        lambda: nn.Sequential(*_dense(192, 3), nn.ReLU(), nn.BatchNorm1d(3)),
        "must end with its linear layer '1' to be packed, had more after it",
    ),
    "no linear layer": (
        lambda: nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten()),
        "must end with a linear layer to be packed, had none",
    ),
    "nothing": (lambda: nn.Flatten(), "must end with a linear layer to be packed, had none"),
    "wide": (lambda: _dense(192, 1025, 2), "its '1' has a width of 1025, of at most 1024"),
    "many classes": (lambda: _dense(192, 4, 1025), "its '3' has a width of 1025"),
    "deep": (lambda: _dense(192, 4, 4, 4, 4, 2), "its '9' is linear layer 5, of at most 4"),
    "long": (
        lambda: flat(*(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(4))),
        r"its '3\.0' is convolution 4, of at most 3",
    ),
    "one logit": (
        lambda: _dense(192, 4, 1),
        "must have 2 logits or more, its linear layer '3' makes one",
    ),
    "own forward": (own_forward, "its '1' had a forward method of its"),
    "infinite": (lambda: spoilt(math.inf), "finite weights to be packed, its '1' has others"),
    "not a number": (lambda: spoilt(math.nan), "model must have finite weights"),
    "too large for float32": (lambda: spoilt(1e39), "model must have finite weights"),
    "channels": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3)), "'0' takes 1 channels, was given"),
    "large kernel": (lambda: nn.Sequential(nn.Conv2d(3, 4, 9)), "'0' leaves nothing of"),
    "large square": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 5), nn.MaxPool2d(5)),
        r"'1' leaves nothing of \(4, 4, 4\)",
    ),
    "norm's size": (lambda: nn.Sequential(nn.BatchNorm2d(5)), "'0' could not be followed: Runtime"),
    "other size": (lambda: _dense(191, 2), "takes 191 numbers, was given"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_packed_is_named(name):
    make, message = REFUSED[name]
    module = make().eval()
    if any(isinstance(each, nn.LazyLinear) for each in module.modules()):
        module(images((3, 8, 8)))
    with pytest.raises(NotPackable, match=message):
        pack(module, (3, 8, 8))


def test_dropout_and_batch_norm_in_training_mode_are_refused():
    drops = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(192, 2)).train()
    with pytest.raises(NotPackable, match=r"'1' drops at random: call model.eval\(\)"):
        pack(drops, (3, 8, 8))
    norm = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, 2)).train()
    with pytest.raises(NotPackable, match="statistics from the batch"):
        pack(norm, (3, 8, 8))


@pytest.mark.parametrize(
    "layers",
    [
        lambda: (nn.Flatten(), nn.Linear(192, 9), nn.ReLU(), nn.Linear(9, 4)),
        lambda: (nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(320, 4)),
    ],
)
def test_wrapped_networks_are_fused_with_their_normalisation(layers):
    inner = nn.Sequential(*layers()).eval()
    module, x = rc.wrap(inner, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)), images((3, 8, 8))
    packed = pack(module, (3, 8, 8))
    with torch.no_grad():
        torch.testing.assert_close(packed(x), module(x), rtol=1e-5, atol=1e-6)
        assert float((packed(x) - inner(x)).abs().max()) > 0.1
    record = rc.error_rate(module, x, 0.3, samples=100)
    plain = rc.error_rate(lambda z: module(z), x, 0.3, samples=100)
    assert record.provenance.notes[:1] == (f"fused from noise to counts: {packed}",)
    assert not any("fused" in note for note in plain.provenance.notes)
    assert abs(record.n_errors - plain.n_errors).sum() <= 1  # of 600: rounding
    assert plain.n_errors.sum() > 10


def test_arguments_may_be_named():
    module, x = Named().eval(), images((3, 8, 8))
    assert torch.equal(pack(module, (3, 8, 8))(x), module(x))


def test_tracing_leaves_no_trace():
    for counting in (Counting(), Asking()):
        with pytest.raises(NotPackable):
            pack(counting, (3, 8, 8))
        assert counting.calls == 0
    assert not SEEN


def test_arguments_are_checked():
    module, shape = model("chain")
    with pytest.raises(ValueError, match="draws must be one of pixels, features, was 'all'"):
        pack(module, shape, draws="all")
    with pytest.raises(TypeError, match=r"model must be an nn.Module to be packed, was function"):
        pack(lambda x: x, shape)
    for bad in (192, (192,), (1, 3, 8, 8), (3, 8.0, 8), (3, 0, 8), (3, -8, -8), None):
        with pytest.raises(ValueError, match=r"shape must be \(C, H, W\), each a whole number"):
            pack(module, bad)
    with pytest.raises(NotPackable, match="first layer is a convolution"):
        pack(module, shape, draws="features")
    with pytest.raises(ValueError, match=r"x must hold images of the packed network's shape"):
        rc.error_rate(pack(module, shape), images((3, 9, 9)), 0.1, samples=5)


def test_forward_code_may_call_methods_of_its_own_but_none_that_store():
    class Sly(Chain):
        def features(self, x):
            self.last = x
            return super().features(x)

    with pytest.raises(NotPackable, match=r"stored last|used 'super'"):
        pack(Sly(), (3, 10, 8))
