"""The corruptions against their published definition, image by image or in distribution.

    python benchmarks/corruption_fidelity.py --peer PYTHON --cifar test.npz --photos FOLDER \
        --out benchmarks/results/corruptions_fidelity.json

--peer: the Python of an environment made as `corruption_peer.py` says. --cifar: an npz with
`images` (N, 32, 32, 3) uint8 and `labels`. --photos: a folder of pictures of 224 x 224.

Both sides are cut to 8 bits, as the published files are. A deterministic corruption passes where
the difference is at most 1/255 in the mean and 3/255 at the 99.9th percentile. A random one is
compared by what it changes: mean absolute change, variance of the change, and the power of the
change in octaves of frequency, ours over theirs, averaged over images. A condition is "ok" where
the 99 % interval of every one of these ratios lies within 3 % of 1; "OFF" where one lies farther
away than 3 % and 3.5 standard errors (a false alarm in about one run of 10 over all that is
compared); "open" between the two: too few images to say.

--draws own: each side draws for itself. --draws same: the published code is handed our random
numbers (`corruption_draws.py`), so that the two make the same picture; the pixels are compared as
well. Then chance drops out of the ratios, and what is left to assume is the law of the unit draws
themselves, which tests of the generator hold. Neither for shot nor for impulse noise.

With --accuracy NETWORK --data FOLDER the accuracy of networks of `networks.py` on both sides is
compared, too, by its paired interval at 99.9 %. --control compares ours at another severity, and
must find nearly every condition off: it shows what the comparison can see. --out FILE adds this
run to those in the file (in the place of one of the same command); --summary FILE reads it: of each
condition the run counts whose standard errors are smallest, whatever it found.
"""

import argparse
import collections
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from corruption_draws import unit_draws
from machine import machine
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
CLOSE, SURE, WIDE = 0.03, 2.58, 3.5  # asked; standard errors of 99 %, and of an alarm


def tables(size):
    """The cifar set as the published code writes it: lengths of elastic in pixels."""
    if size != 32:
        return None
    found = {name: list(each) for name, each in PARAMETERS["cifar"].items()}
    found[ELASTIC] = [tuple(size * part for part in c) for c in found[ELASTIC]]
    return found


def peer_run(
    python, images, names, severities, *, source="published", keep=True, seed=0, draws=None
):
    """Outputs and (wall, CPU) seconds of the peer on images (N, H, W, 3) uint8.

    draws: what to hand it in the place of random numbers, by (name, severity).
    """
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
        for (name, severity), units in (draws or {}).items():
            np.save(Path(folder, f"draws-{name}-{severity}.npy"), units)
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


def ours(images, name, severity, seed):
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


def split(*arrays):
    """In pieces, which is what the transforms of large photos leave room for."""
    return [np.array_split(each, 1 + each.size // 2**24) for each in arrays]


def compare(a, b):
    """Ratio of means (F,) and its standard error, images being paired."""
    ratio = a.mean(0) / b.mean(0)
    spread = (a - ratio * b).std(0, ddof=1) / np.sqrt(len(a))
    return ratio, spread / b.mean(0)


def verdict(ratio, error):
    off, error = abs(np.asarray(ratio) - 1), np.asarray(error)
    if (off + SURE * error <= CLOSE).all():
        return "ok"
    return "open" if (off - WIDE * error <= CLOSE).all() else "OFF"


def row(name, severity, images, theirs, seed, same=False):
    """What is compared of one condition, with a verdict."""
    mine, found = ours(images, name, severity, seed), {"name": name, "severity": severity}
    if name in DETERMINISTIC or same:
        far = [abs(a.astype(np.int16) - b) for a, b in zip(*split(mine, theirs), strict=True)]
        counts = sum(np.bincount(each.ravel(), minlength=256) for each in far)
        found["mean"] = round(float(counts @ np.arange(256) / counts.sum()), 4)
        found["far"] = int(np.searchsorted(counts.cumsum(), 0.999 * counts.sum()))
    if name in DETERMINISTIC:
        return {**found, "verdict": "ok" if found["mean"] <= 1 and found["far"] <= 3 else "OFF"}
    parts = [np.concatenate([*map(features, *split(each, images))]) for each in (mine, theirs)]
    ratio, error = (each.round(4).tolist() for each in compare(*parts))
    return {**found, "ratio": ratio, "error": error, "verdict": verdict(ratio, error)}


def image_sets(arguments):
    def repeated(images):
        return np.concatenate([images] * arguments.repeats)

    if arguments.cifar:
        with np.load(arguments.cifar) as file:
            images, labels = (file[each][: arguments.images] for each in ("images", "labels"))
        yield repeated(images), np.tile(labels, arguments.repeats)
    if arguments.photos:
        files = sorted(Path(arguments.photos).glob("*"))[: arguments.images]
        pictures = [np.asarray(Image.open(each).convert("RGB")) for each in files]
        yield repeated(np.stack(pictures)), None


def accuracy(network, images, labels, theirs, name, severity, seed):
    """(ours, theirs, half-width of the paired 99.9 % interval of the difference)."""
    right = []
    for each in (ours(images, name, severity, seed), theirs):
        x = torch.from_numpy(each).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            answers = torch.cat([network(part).argmax(1) for part in x.split(250)])
        right.append(answers.numpy() == labels)
    gap = right[0].astype(float) - right[1]
    wide = 3.29 * max(gap.std(ddof=1) / np.sqrt(len(gap)), 1 / len(gap))
    return [round(float(each), 4) for each in (right[0].mean(), right[1].mean(), wide)]


def line(found):
    """One condition, as it is printed."""
    cells = []
    if "mean" in found:
        cells += [f"mean {found['mean']:.3f}/255", f"99.9 % {found['far']:.0f}/255"]
    if "ratio" in found:
        ratio, error = found["ratio"], found["error"]
        worst = max(range(2, len(ratio)), key=lambda i: abs(ratio[i] - 1))
        cells += [f"{ratio[i]:.4f} +- {error[i]:.4f}" for i in (0, 1, worst)]
    for network, (a, b, wide) in found.get("accuracy", {}).items():
        cells.append(f"{network} {a:.4f}, theirs {b:.4f} +- {wide:.4f} {judged(a, b, wide)}")
    return " | ".join([found["name"], str(found["severity"]), *cells, found["verdict"]])


def judged(a, b, wide):
    return "ok" if abs(a - b) <= wide else "OFF"


def summary(file):
    """Every condition of a file by its sharpest run, and how many were shown."""
    best, verdicts = {}, collections.Counter()
    for each in json.loads(Path(file).read_text())["sets"]:
        for found in each["conditions"]:
            key = found["name"], found["severity"]
            width = max(found.get("error", [0]))
            if key not in best or width < best[key][0]:
                best[key] = width, found, each
    for _, found, each in best.values():
        if "ratio" in found:
            found["verdict"] = verdict(found["ratio"], found["error"])
        verdicts[found["verdict"]] += 1
        print(line(found), f"| {each['images']} images, {each.get('draws', 'own')} draws")
    print(f"{len(best)} conditions: {dict(verdicts)}")


def add(file, run):
    file = Path(file)
    sets = json.loads(file.read_text())["sets"] if file.exists() else []
    # one command makes a set for each size of image
    key = [run["command"], run["pixels"]]
    sets = [each for each in sets if [each.get("command"), each["pixels"]] != key]
    file.write_text(json.dumps({"sets": [*sets, run]}, indent=1) + "\n")


def measure(arguments, images, labels, networks):
    """One set of images, every condition asked for."""
    rows, verdicts = [], collections.Counter()
    for name in arguments.names:
        same = arguments.draws == "same" and name not in DETERMINISTIC
        for severity in arguments.severities:
            key = name, severity
            draws = {key: unit_draws(images, *key, arguments.seed)} if same else None
            if same and draws[key] is None:
                raise SystemExit(f"--draws same: {name} draws in another way")
            seed = arguments.seed - 1
            out, _ = peer_run(arguments.peer, images, [name], [severity], seed=seed, draws=draws)
            other = severity + 1 if severity < 5 else 4
            used = other if arguments.control else severity
            found = row(name, used, images, out[key], arguments.seed, same)
            verdicts[found["verdict"]] += 1
            found["accuracy"] = {
                each: accuracy(network, images, labels, out[key], name, used, arguments.seed)
                for each, network in networks.items()
                if labels is not None
            }
            for numbers in found["accuracy"].values():
                verdicts[judged(*numbers) + " accuracy"] += 1
            rows.append(found)
            print(line(found), flush=True)
    print(dict(verdicts))
    return {"verdicts": dict(verdicts), "conditions": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", help="the Python of the peer's environment")
    parser.add_argument("--cifar")
    parser.add_argument("--photos")
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=1, help="draws for each image")
    parser.add_argument("--draws", choices=("own", "same"), default="own")
    parser.add_argument("--names", nargs="*", default=NAMES)
    parser.add_argument("--severities", nargs="*", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--accuracy", nargs="*", default=[], help="of networks.py, on CIFAR images")
    parser.add_argument("--data", help="the folder that holds models/cifar10")
    parser.add_argument("--seed", type=int, default=1, help="of ours; the peer's is one less")
    parser.add_argument("--control", action="store_true", help="ours one severity off: all OFF")
    parser.add_argument("--out", help="a JSON file to add to")
    parser.add_argument("--summary", help="such a file: read it and measure nothing")
    arguments = parser.parse_args()
    if arguments.summary:
        return summary(arguments.summary)
    networks = {each: load(each, arguments.data) for each in arguments.accuracy}
    kept = ("images", "repeats", "draws", "seed", "control")
    about = {each: getattr(arguments, each) for each in kept}
    # paths are the machine's own
    paths = {str(arguments.peer): "PYTHON", str(arguments.cifar): "test.npz"}
    paths |= {str(arguments.photos): "FOLDER", str(arguments.data): "DATA"}
    paths |= {str(arguments.out): Path(arguments.out or "").name}
    about["command"] = " ".join(["python", *(paths.get(each, each) for each in sys.argv)])
    for images, labels in image_sets(arguments):
        pixels = images.shape[1]
        print(f"{len(images)} images of {pixels} pixels")
        found = measure(arguments, images, labels, networks)
        if arguments.out:
            run = {**about, "pixels": pixels, "machine": machine(), **found}
            add(arguments.out, {**run, "images": len(images) // arguments.repeats})
    return None


if __name__ == "__main__":
    main()
