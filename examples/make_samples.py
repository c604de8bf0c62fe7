"""Write a sample that robustcore ships: the first 1,000 test images, lossless.

python examples/make_samples.py --set mnist --folder DIR --out robustcore/zoo

DIR is as for train_zoo.py; the pixels are checked against their known sha256.
"""

import argparse
import json
from pathlib import Path

from PIL import Image

from robustcore.training import load_cifar10, load_mnist

SETS = {
    "cifar10": (
        load_cifar10,
        "CIFAR-10 test set, first 1,000 images in its order; A. Krizhevsky, "
        "Learning Multiple Layers of Features from Tiny Images, 2009",
    ),
    "mnist": (
        load_mnist,
        "MNIST test set, first 1,000 images in its order; Y. LeCun, C. Cortes and C. Burges",
    ),
}

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--folder", type=Path, help="where the data lie (default: download)")
parser.add_argument("--out", type=Path, default=Path("robustcore/zoo"))
parser.add_argument("--set", choices=SETS, required=True)
args = parser.parse_args()

load, source = SETS[args.set]
data = load(args.folder)
channels, size = data.x_test.shape[1:3]
tiles = data.x_test[:1000].numpy().reshape(25, 40, channels, size, size).transpose(0, 3, 1, 4, 2)
sheet = tiles.reshape(25 * size, 40 * size, channels)
picture = Image.fromarray(sheet if channels == 3 else sheet[..., 0])
picture.save(args.out / f"{args.set}-test-1000.png", optimize=True)
about = {
    "source": source,
    "layout": f"25 rows of 40 tiles of {size} x {size} pixels",
    "labels": data.y_test[:1000].tolist(),
}
(args.out / f"{args.set}-test-1000.json").write_text(json.dumps(about) + "\n")
