"""The kernels in plain torch: the definition of correct, for any device.

Contracts are in `kernels.py`. What is sequential is made on the CPU and moved: it depends on the
names of the draws alone, or (`wet_edges`) on one small layer.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from robustcore.corruptions.kernels import Bands, Draw
from robustcore.kernels.reference import philox


def _words(ids: Tensor, blocks: Tensor, draw: Draw, sample: int) -> Tensor:
    """(B, 4 words of each block): ids (B,), blocks (n,) for every image or (B, n)."""
    block = blocks.expand(len(ids), -1)
    counter = torch.stack(
        (
            block,
            torch.full_like(block, sample),
            ids[:, None].expand_as(block),
            torch.full_like(block, draw.stream),
        ),
        -1,
    )
    key = (draw.seed & 0xFFFFFFFF, draw.seed >> 32)
    return philox(counter.reshape(-1, 4), key).view(*block.shape, 4)


def uniforms(ids: Tensor, n: int, draw: Draw) -> Tensor:
    blocks = torch.arange(-(-n // 4), device=ids.device)
    words = _words(ids, blocks, draw, draw.sample).flatten(1)[:, :n]
    return ((words >> 9).float() + 0.5) * 2.0**-23


def _fraction(words: Tensor) -> Tensor:
    return (words.double() + 0.5) * 2.0**-32


def poisson(mean: Tensor, ids: Tensor, draw: Draw) -> Tensor:
    flat = mean.double().flatten()
    out = torch.zeros_like(flat)
    image = ids.repeat_interleave(mean.shape[1])
    element = torch.arange(mean.shape[1], device=ids.device).repeat(len(ids))

    def fractions(at: Tensor, part: int) -> Tensor:
        words = _words(image[at], element[at, None], draw, draw.sample + 256 * part)
        return _fraction(words[:, 0])

    small = (flat < 10).nonzero().flatten()
    out[small] = _invert(flat[small], fractions(small, 0)[:, 0])
    left = (flat >= 10).nonzero().flatten()
    attempt = 0
    while len(left):
        pair = fractions(left, attempt // 2)[:, 2 * (attempt % 2) :][:, :2]
        count, accepted = _transformed(flat[left], pair[:, 0], pair[:, 1])
        out[left[accepted]] = count[accepted]
        left = left[~accepted]
        attempt += 1
    return out.view_as(mean).float()


def _invert(mean: Tensor, u: Tensor) -> Tensor:
    """The least k whose distribution function reaches u."""
    p, count = torch.exp(-mean), torch.zeros_like(mean)
    u = u.clone()
    for k in range(1, 101):
        more = u > p
        if not bool(more.any()):
            break
        u = torch.where(more, u - p, -1.0)  # below every p: this element is done
        count += more
        p = p * (mean / k)
    return count


def _transformed(mean: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """One attempt of PTRS: counts, and which of them are accepted."""
    b = 0.931 + 2.53 * mean.sqrt()
    a = -0.059 + 0.02483 * b
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    u = first - 0.5
    us = 0.5 - u.abs()
    k = torch.floor((2 * a / us + b) * u + mean + 0.43)
    inside = (us >= 0.07) & (second <= 0.9277 - 3.6224 / (b - 2))
    outside = (k < 0) | ((us < 0.013) & (second > us))
    score = torch.log(second * inverse_alpha / (a / (us * us) + b))
    limit = k * mean.log() - mean - torch.lgamma(k.clamp(min=0) + 1)
    return k, inside | (~outside & (score <= limit))


def shuffle_order(
    ids: Tensor, size: tuple[int, int], reach: int, passes: int, draw: Draw
) -> Tensor:
    height, width = size
    down, across = range(height - reach, reach, -1), range(width - reach, reach, -1)
    steps = [(y, x) for y in down for x in across] * passes
    blocks = torch.arange(-(-len(steps) // 4), device="cpu")
    words = _words(ids.cpu(), blocks, draw, draw.sample).flatten(1).numpy()
    dx = ((words & 0xFFFF) * 2 * reach >> 16) - reach
    dy = ((words >> 16) * 2 * reach >> 16) - reach
    order = np.tile(np.arange(height * width), (len(ids), 1))
    image = np.arange(len(ids))
    for site, (y, x) in enumerate(steps):
        order[:, y * width + x] = order[image, (y + dy[:, site]) * width + x + dx[:, site]]
    return torch.from_numpy(order).to(ids.device)


def taps(x: Tensor, dy: Tensor, dx: Tensor, weight: Tensor, border: str) -> Tensor:
    rows = _inside(torch.arange(x.shape[2], device=x.device), dy, x.shape[2], border)
    columns = _inside(torch.arange(x.shape[3], device=x.device), dx, x.shape[3], border)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    out = torch.zeros_like(x)
    for t in range(dy.shape[1]):
        moved = x.movedim(1, -1)[image, rows[:, t, :, None], columns[:, t, None, :]]
        out += moved.movedim(-1, 1) * weight[:, t, None, None, None]
    return out


def _inside(at: Tensor, move: Tensor, n: int, border: str) -> Tensor:
    """(B, T, n): at + move, brought back into [0, n)."""
    at = at + move[..., None]
    if border == "edge":
        return at.clamp(0, n - 1)
    at = at.remainder(2 * n - 2)
    return torch.where(at < n, at, 2 * n - 2 - at)


def separable(x: Tensor, rows: Bands, columns: Bands) -> Tensor:
    left, right = rows.dense(x.device), columns.dense(x.device)
    out = left[0] @ x @ right[0].T
    for k in range(1, len(left)):
        out += left[k] @ x @ right[k].T
    return out


def spread(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return x.index_select(2, columns).index_select(1, rows)


def jpeg(x: Tensor, quality: int, add: float) -> Tensor:
    levels = (x * 255.0 + add).clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    files = np.stack([_file(each, quality) for each in levels])
    return (torch.from_numpy(files).float() / 255).permute(0, 3, 1, 2).contiguous().to(x.device)


def _file(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as read:
        return np.asarray(read)


def wet_edges(layer: Tensor) -> Tensor:
    images = [_wet(each) for each in layer.cpu().numpy()]
    return torch.from_numpy(np.stack(images)).to(layer.device)


def _wet(layer: np.ndarray) -> np.ndarray:
    box = np.ones((3, 3), np.float32)
    far = np.minimum(_distance(_edges(layer.astype(np.int64))), np.float32(20))
    near = (ndimage.correlate(far, box, mode="mirror") * np.float32(1 / 9)).astype(np.uint8)
    near = _equalised(near).astype(np.float32)
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)
    near = ndimage.correlate(near, emboss, mode="mirror").clip(0, 255)
    return np.rint(ndimage.correlate(near, box, mode="mirror") * np.float32(1 / 9))


def _edges(layer: np.ndarray) -> np.ndarray:
    """Canny's edges: ridges of the gradient above 50 that touch one above 150."""
    across = ndimage.sobel(layer, 1, mode="nearest")
    down = ndimage.sobel(layer, 0, mode="nearest")
    steep = abs(across) + abs(down)
    m = np.pad(steep, 1)

    def beside(dy: int, dx: int) -> np.ndarray:
        return m[1 + dy : m.shape[0] - 1 + dy, 1 + dx : m.shape[1] - 1 + dx]

    flat, tall = abs(across) * 13573, abs(down) << 15  # the tangent of 22.5 degrees times 2^15
    upright = flat + (abs(across) << 16)
    level = (steep > beside(0, -1)) & (steep >= beside(0, 1))
    plumb = (steep > beside(-1, 0)) & (steep >= beside(1, 0))
    falling = (steep > beside(-1, -1)) & (steep > beside(1, 1))
    rising = (steep > beside(-1, 1)) & (steep > beside(1, -1))
    slope = np.where((across ^ down) < 0, rising, falling)
    ridge = np.where(tall < flat, level, np.where(tall > upright, plumb, slope)) & (steep > 50)
    groups, _ = ndimage.label(ridge, np.ones((3, 3)))
    return ridge & np.isin(groups, groups[ridge & (steep > 150)])


def _distance(edge: np.ndarray) -> np.ndarray:
    """Chamfer distance to the nearest edge, by relaxing."""
    lengths = {(0, 1): 1.0, (1, 1): 1.4, (1, 2): 2.1969}
    far = np.where(edge, 0, 1e6).astype(np.float32)
    for _ in range(21):  # each turn reaches one pixel on, and distances end at 20
        padded = np.pad(far, 2, constant_values=1e6)
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                length = lengths.get((min(abs(dy), abs(dx)), max(abs(dy), abs(dx))))
                if length is not None:
                    moved = padded[2 + dy :, 2 + dx :][: far.shape[0], : far.shape[1]]
                    far = np.minimum(far, moved + np.float32(length))
    return far


def _equalised(x: np.ndarray) -> np.ndarray:
    count = np.bincount(x.flatten(), minlength=256)
    first = int(count.nonzero()[0][0])
    rest = x.size - int(count[first])
    if rest == 0:
        return x
    sums = (count.cumsum() - count[first]).astype(np.float32)
    lut = np.rint(sums * (np.float32(255) / np.float32(rest))).clip(0, 255)
    return lut.astype(np.uint8)[x]
