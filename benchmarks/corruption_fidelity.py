"""The corruptions against their published definition, image by image or in distribution.

    python benchmarks/corruption_fidelity.py --peer PYTHON --cifar test.npz --photos FOLDER

--peer: the Python of an environment made as `corruption_peer.py` says. --cifar: an npz with
`images` (N, 32, 32, 3) uint8 and `labels`. --photos: a folder of pictures of 224 x 224.

Both sides are cut to 8 bits, as the published files are. A deterministic corruption passes where
the difference is at most 1/255 in the mean and 3/255 at the 99.9th percentile. A random one is
compared by what it changes: mean absolute change, variance of the change, and the power of the
change in octaves of frequency, ours over theirs, averaged over images. Each is 1 within 3 %, or
within 3 % and 3.5 standard errors of the comparison (a false alarm in about one run of 10 over
all that is compared); the standard error is printed beside, so that a wide one can be seen. With
--accuracy NETWORK --data FOLDER the accuracy of networks of `networks.py` on both sides is
compared, too, by its paired interval at 99.9 %. --control compares ours at another severity, and
must find nearly every condition off: it shows what the comparison can see.
"""

import argparse
import collections
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from networks import load
from PIL import Image

from robustcore.corruptions import NAMES, PARAMETERS, corrupt

DETERMINISTIC = (
    "defocus_blur",
    "zoom_blur",
    "gaussian_blur",
    "brightness",
    "contrast",
    "saturate",
    "pixelate",
    "jpeg_compression",
)
ELASTIC = "elastic_transform"
WIDE = 3.5  # standard errors


def tables(size):
    """The cifar set as the published code writes it: lengths of elastic in pixels."""
    if size != 32:
        return None
    found = {name: list(each) for name, each in PARAMETERS["cifar"].items()}
    found[ELASTIC] = [tuple(size * part for part in c) for c in found[ELASTIC]]
    return found


def peer_run(python, images, names, severities, *, source="published", keep=True, seed=0):
    """(outputs by (name, severity), seconds) of the peer on images (N, H, W, 3) uint8."""
    with tempfile.TemporaryDirectory() as folder:
        plan = {
            "names": list(names),
            "severities": list(severities),
            "seed": seed,
            "source": source,
            "keep": keep,
            "tables": tables(images.shape[1]),
        }
        Path(folder, "plan.json").write_text(json.dumps(plan))
        np.save(Path(folder, "images.npy"), images)
        script = Path(__file__).with_name("corruption_peer.py")
        subprocess.run([python, str(script), folder], check=True)
        seconds = json.loads(Path(folder, "seconds.json").read_text())
        out = {
            (name, severity): np.load(Path(folder, f"{name}-{severity}.npy"))
            for name in names
            for severity in severities
            if keep
        }
    return out, seconds


def ours(images, name, severity, seed=1):
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    out = corrupt(x, name, severity, seed=seed)
    return (out * 255 + 1e-3).floor().byte().permute(0, 2, 3, 1).numpy()


def features(changed, images):
    """(N, F) float64: what a corruption does to each image."""
    change = (changed.astype(np.float32) - images) / 255
    rows = [abs(change).mean((1, 2, 3)), change.var((1, 2, 3))]
    power = (abs(np.fft.fft2(change, axes=(1, 2))) ** 2).mean(3)
    along = np.fft.fftfreq(images.shape[1]) * images.shape[1]
    radius = np.hypot(along[:, None], along[None])
    edge = 1.0
    while edge < images.shape[1] / 2:
        ring = (radius >= edge) & (radius < 2 * edge)
        rows.append(power[:, ring].mean(1))
        edge *= 2
    return np.stack(rows, 1).astype(np.float64)


def compare(a, b):
    """Ratio of means (F,) and its standard error, images being paired."""
    ratio = a.mean(0) / b.mean(0)
    spread = (a - ratio * b).std(0, ddof=1) / np.sqrt(len(a))
    return ratio, spread / b.mean(0)


def row(name, severity, images, theirs):
    mine = ours(images, name, severity)
    if name in DETERMINISTIC:
        off = abs(mine.astype(int) - theirs)
        mean, far = off.mean(), np.percentile(off, 99.9)
        verdict = "ok" if mean <= 1 and far <= 3 else "OFF"
        return [name, severity, f"mean {mean:.3f}/255", f"99.9 % {far:.0f}/255", verdict]
    ratio, error = compare(features(mine, images), features(theirs, images))
    off = abs(ratio - 1)
    verdict = (
        "ok" if (off <= 0.03).all() else "noise" if (off <= 0.03 + WIDE * error).all() else "OFF"
    )
    worst = int(np.argmax(off[2:])) + 2
    cells = [f"{ratio[i]:.3f} +- {error[i]:.3f}" for i in (0, 1, worst)]
    return [name, severity, *cells, verdict]


def image_sets(arguments):
    if arguments.cifar:
        with np.load(arguments.cifar) as file:
            yield file["images"][: arguments.images], file["labels"][: arguments.images]
    if arguments.photos:
        files = sorted(Path(arguments.photos).glob("*"))[: arguments.images]
        pictures = [np.asarray(Image.open(each).convert("RGB")) for each in files]
        yield np.stack(pictures), None


def accuracy(network, images, labels, theirs, name, severity):
    right = []
    for each in (ours(images, name, severity), theirs):
        x = torch.from_numpy(each).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            answers = torch.cat([network(part).argmax(1) for part in x.split(250)])
        right.append(answers.numpy() == labels)
    gap = right[0].astype(float) - right[1]
    wide = 3.29 * max(gap.std(ddof=1) / np.sqrt(len(gap)), 1 / len(gap))
    a, b = (each.mean() for each in right)
    return f"accuracy {a:.4f}, theirs {b:.4f} +- {wide:.4f} {'ok' if abs(a - b) <= wide else 'OFF'}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", required=True)
    parser.add_argument("--cifar")
    parser.add_argument("--photos")
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--names", nargs="*", default=NAMES)
    parser.add_argument("--severities", nargs="*", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--accuracy", nargs="*", default=[], help="of networks.py, on CIFAR images")
    parser.add_argument("--data", help="the folder that holds models/cifar10")
    parser.add_argument("--control", action="store_true", help="ours one severity off: all OFF")
    arguments = parser.parse_args()
    networks = {each: load(each, arguments.data) for each in arguments.accuracy}
    for images, labels in image_sets(arguments):
        print(f"{len(images)} images of {images.shape[1]} pixels")
        verdicts = collections.Counter()
        for name in arguments.names:
            out, _ = peer_run(arguments.peer, images, [name], arguments.severities)
            for severity in arguments.severities:
                theirs = out[name, severity]
                other = severity + 1 if severity < 5 else 4
                used = other if arguments.control else severity
                cells = row(name, used, images, theirs)
                verdicts[cells[-1]] += 1
                if labels is not None:
                    for network in networks.values():
                        cells.append(accuracy(network, images, labels, theirs, name, used))
                        verdicts[cells[-1].split()[-1] + " accuracy"] += 1
                print(" | ".join(map(str, cells)), flush=True)
        print(dict(verdicts))


if __name__ == "__main__":
    main()
