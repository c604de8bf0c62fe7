"""Small networks that can be fused, by name, with the shapes of their images; how they round."""

import random
from dataclasses import replace
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from robustcore.kernels import reference

UNIT = 2.0**-24


class Chain(nn.Module):
    """Functional forms, a normalisation, and a view of each image by itself."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.1]).view(1, 3, 1, 1))
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.fc = nn.Linear(5 * 5 * 4, 7)
        self.out = nn.Linear(7, 3)

    def features(self, x):
        return F.max_pool2d(F.relu(self.conv((x - self.mean) / self.std)), 2)

    def forward(self, x):
        x = self.features(x)
        x = F.dropout(torch.relu(self.fc(x.view(x.size(0), -1))), training=self.training)
        return self.out(x)


def _awkward():
    """Strides, dilations and paddings of two kinds, a pool of 3, batch norms before and after."""
    return nn.Sequential(
        *(nn.BatchNorm2d(3), nn.Conv2d(3, 7, 3, 1, 1), nn.BatchNorm2d(7), nn.ReLU()),
        *(nn.MaxPool2d(3), nn.Conv2d(7, 5, (3, 2), (1, 2), (2, 0), (1, 2)), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(15, 9), nn.BatchNorm1d(9), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(9, 3)),
    )


def _strided():
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 4, 2, 1), nn.ReLU(), nn.Conv2d(6, 9, 3, 3), nn.ReLU()),
        *(nn.Conv2d(9, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 11), nn.ReLU()),
        nn.Linear(11, 4),
    )


def _gaps():
    """Numbers that no window covers, and maxima of what no ReLU made positive."""
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 2, 3), nn.MaxPool2d(2), nn.Conv2d(6, 5, 1, 2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(20, 7), nn.ReLU(), nn.Linear(7, 3)),
    )


def _dense(*widths):
    layers = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


MODELS = {
    "linear": (lambda: _dense(150, 10), (1, 10, 15)),
    "mlp": (lambda: _dense(192, 37, 10), (3, 8, 8)),
    "four": (lambda: _dense(65, 50, 1, 20, 2), (1, 5, 13)),
    "chain": (Chain, (3, 10, 8)),
    "awkward": (_awkward, (3, 14, 19)),
    "strided": (_strided, (1, 18, 18)),
    "gaps": (_gaps, (2, 17, 20)),
}


KERNELS = (1, 4), (1, 4), (0, 4), (1, 3)  # sides, strides, padding, dilation


def random_model(seed):
    """A network and the shape of its images, such as few would write."""
    some = random.Random(seed)
    while True:
        shape = tuple(some.randint(1, most) for most in (4, 17, 17))
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return _random(some, shape).eval(), shape
        except RuntimeError:  # nothing was left of the image
            pass


def _random(some, shape):
    layers, left = [], torch.zeros(2, *shape)

    def add(*more):
        nonlocal left
        layers.extend(more)
        left = nn.Sequential(*more).eval()(left)

    for _ in range(some.randint(0, 3)):
        sides = [[some.randint(low, most) for _ in "yx"] for low, most in KERNELS]
        add(nn.Conv2d(left.shape[1], some.randint(1, 9), *sides))
        after = [nn.ReLU(), nn.MaxPool2d(some.randint(1, 3))]
        add(*some.sample(after, some.randint(0, 2)))
    add(nn.Flatten())
    for _ in range(some.randint(0, 3)):
        add(nn.Linear(left.shape[1], some.randint(1, 70)), *[nn.ReLU()] * some.randint(0, 1))
    add(nn.Linear(left.shape[1], some.randint(2, 20)))
    return nn.Sequential(*layers)


def model(name):
    """(module in evaluation mode, shape), the same each time, with every number made to matter."""
    make, shape = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(name))
        module = make()
        for each in module.modules():
            if isinstance(each, nn.modules.batchnorm._BatchNorm):
                each.running_mean.uniform_(-0.5, 0.5)
                each.running_var.uniform_(0.5, 2)
                nn.init.uniform_(each.weight, -1, 1)
                nn.init.uniform_(each.bias, -1, 1)
        module.eval()
        last = [each for each in module.modules() if isinstance(each, nn.Linear)][-1]
        with torch.no_grad():  # no class is far ahead of the others
            last.bias -= module(torch.rand(32, *shape) + torch.randn(32, *shape) / 3).mean(0)
    return module, shape


def slots(shape, n=83, images=5, seed=0):
    """The arguments of a round: x, rows, sigma, samples and ids, the largest names among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(images, *shape, generator=generator)
    rows = torch.randint(images, (n,), generator=generator)
    samples = torch.randint(2**32, (n,), generator=generator)
    ids = torch.randint(2**32, (images,), generator=generator)
    samples[0], ids[rows[0]] = 2**32 - 1, 2**32 - 1
    return x, rows, torch.rand(n, generator=generator), samples, ids


def band(packed, noisy):
    """How far rounding may carry float32 logits, (S, K): lambda sqrt(n) u |W| |x| in each layer.

    The bound of Higham and Mary (2019) on a sum of n terms, with lambda = 8: it is broken with
    probability 2 exp(-32) at most. Layers hand it on by their absolute weights. Folding of weights
    counts as one term.
    """
    value = noisy.double()
    error = 2 * UNIT * value.abs()
    for layer in packed.layers:
        absolute = replace(
            layer, weight=layer.weight.abs(), bias=layer.bias.abs(), relu=False, pool=1,
            fill=None if layer.fill is None else layer.fill.abs(),
        )  # fmt: skip
        carried = replace(absolute, bias=torch.zeros_like(layer.bias), fill=None)
        terms = layer.weight[0].numel() + 2
        error = carried(error) + 8 * terms**0.5 * UNIT * absolute(value.abs())
        value = layer(value)
        error = nn.functional.max_pool2d(error, layer.pool) if layer.pool > 1 else error
    return error


def noisy_images(arguments, **names):
    x, rows, sigma, samples, ids = arguments
    out = torch.empty(len(rows), *x.shape[1:])
    return reference.perturb(x, rows, sigma, samples, ids, out, **names)


def in_doubt(packed, x, labels, grid, draws, **names):
    """How many of `draws` first draws of each image rounding may decide, at each sigma: (B, G)."""
    images = torch.arange(len(x))
    rows, samples = images.repeat_interleave(draws), torch.arange(draws).repeat(len(x))
    inside = torch.zeros(len(x), len(grid), dtype=torch.int64)
    for g, sigma in enumerate(grid):
        noisy = noisy_images((x, rows, torch.full((len(rows),), sigma), samples, images), **names)
        margin = reference.margins(packed(noisy.double()), labels, rows)[0]
        close = margin.abs() <= 2 * band(packed, noisy).amax(1)
        inside[:, g] = close.view(len(x), draws).sum(1)
    return inside


def check_steps(net, name, norm, loss="margin", box=(0.1, 0.9), steps=5):
    """A descent is single steps of the reference by the same net's gradients."""
    module, shape = model(name)
    x = torch.rand(7, *shape, generator=torch.Generator().manual_seed(4)).clamp(*box)
    x, goal, rows = x.flatten(1), module(x).argmax(1), torch.arange(7).repeat(7)
    radius = torch.linspace(0.002, 0.1, 49) * (1 if norm == 2 else 0.1)
    one, gradient, other = torch.ones(49), torch.empty(49, x.shape[1]), radius / 4
    points, single, shorter = torch.stack([x[rows]] * 3)
    age = net.descend(
        x, points, rows, goal, radius, other, norm=norm, steps=steps, adapts=False, loss=loss,
        box=box,
    )[2]  # fmt: skip
    for own, size in ((single, other), (shorter, other / 2)):
        offset = torch.zeros_like(own)
        for _ in range(steps):
            net.differentiate(own, rows, goal, gradient, loss=loss)
            reference.ball_step(
                x, rows, offset, gradient, one, size, radius, own, norm=norm, box=box
            )
    right = age == steps
    assert int(right.sum()) > 20
    torch.testing.assert_close(points[right], single[right], rtol=0, atol=1e-5)
    assert float((points - shorter)[right].abs().max()) > 1e-4
