"""Our random numbers in the order in which the published code asks for its own.

With them the published function of a random corruption makes the picture that ours should make,
so that the two are compared pixel by pixel: what is left is the definition, not chance.
Each number is a unit draw: uniform in [0, 1), or a standard normal. The peer's stand-in for
`numpy.random` gives it the range, the mean and the deviation that the published code asks for.
shot_noise and impulse_noise are not here: they turn the same law into other numbers.
"""

import torch

from robustcore.corruptions import PARAMETERS
from robustcore.corruptions.batch import Batch
from robustcore.corruptions.kernels import select
from robustcore.corruptions.parameters import CIFAR_UP_TO
from robustcore.corruptions.reference import _words


def unit_draws(images, name, severity, seed):
    """(N, L) float32 for images (N, H, W, 3) of ids 0 to N - 1, or None."""
    if name not in DRAWS:
        return None
    side = images.shape[1]
    c = PARAMETERS["cifar" if side <= CIFAR_UP_TO else "imagenet"][name][severity - 1]
    bodies, rows = select("native", torch.device("cpu")), []
    for ids in torch.arange(len(images)).split(50):
        x = torch.zeros(1, 3, side, side).expand(len(ids), -1, -1, -1)
        parts = DRAWS[name](Batch(x, ids, name, severity, seed, bodies), c)
        rows.append(torch.cat([each.flatten(1) for each in parts], 1).float())
    return torch.cat(rows).numpy()


def noise(batch, c):
    return [batch.normals(3).permute(0, 2, 3, 1)]


def glass_blur(batch, c):
    _, reach, passes = c
    down, across = (side - 2 * reach for side in batch.size)
    blocks, draw = torch.arange(-(-down * across * passes // 4)), batch.draw()
    words = _words(batch.ids, blocks, draw, draw.sample).flatten(1)[:, : down * across * passes]
    return [torch.stack((words & 0xFFFF, words >> 16), 2) / 65536]


def snow(batch, c):
    return batch.normals(1), batch.uniforms(1, part=1)


def fog(batch, c):
    side = 1 << (max(batch.size) - 1).bit_length()
    u, step, parts = batch.uniforms(side, side), side, []
    while step >= 2:
        half = step // 2
        parts += [
            u[:, half::step, half::step],
            u[:, ::step, half::step],
            u[:, half::step, ::step],
        ]
        step = half
    return parts


def elastic_transform(batch, c):
    down, across = batch.uniforms(2, *batch.size, part=1).unbind(1)
    return batch.uniforms(3, 2), across, down


DRAWS = {
    "gaussian_noise": noise,
    "speckle_noise": noise,
    "glass_blur": glass_blur,
    "motion_blur": lambda batch, c: [batch.uniforms(1)],
    "snow": snow,
    "frost": lambda batch, c: [batch.uniforms(3)],
    "fog": fog,
    "elastic_transform": elastic_transform,
    "spatter": lambda batch, c: [batch.normals(1)],
}
