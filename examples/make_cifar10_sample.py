"""Write the sample of CIFAR-10 that robustcore ships: the first 1,000 test images, lossless.

python examples/make_cifar10_sample.py --data DIR --out robustcore/zoo

DIR is as for train_cifar10.py; the pixels are checked against their known sha256.
"""

import argparse
import json
from pathlib import Path

from PIL import Image

from robustcore.training import load_cifar10

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", type=Path, help="folder with CIFAR-10 (default: download)")
parser.add_argument("--out", type=Path, default=Path("robustcore/zoo"))
args = parser.parse_args()

data = load_cifar10(args.data)
x, y = data.x_test, data.y_test
sheet = x[:1000].numpy().reshape(25, 40, 3, 32, 32).transpose(0, 3, 1, 4, 2).reshape(800, 1280, 3)
Image.fromarray(sheet).save(args.out / "cifar10-test-1000.png", optimize=True)
about = {
    "source": "CIFAR-10 test set, first 1,000 images in its order; A. Krizhevsky, "
    "Learning Multiple Layers of Features from Tiny Images, 2009",
    "layout": "25 rows of 40 tiles of 32 x 32 pixels",
    "labels": y[:1000].tolist(),
}
(args.out / "cifar10-test-1000.json").write_text(json.dumps(about) + "\n")
