"""robustcore report: one page about one model or several."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcore import inputs, zoo
from robustcore.cli import models
from robustcore.cli.common import engine_options, results
from robustcore.report import SECTIONS, report
from robustcore.results import Record
from robustcore.runs import leads
from robustcore.sources import LabelledFolder

ABOUT = "one page about one model or several: noise, nearest errors, slices, in plain words"
QUICK = {"samples": 400, "effort": 25, "points": 40, "windows": 2, "nodes": 120}
GIVEN = ("sigma", "distance")  # records of other commands that --records reads


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, nargs="+", action="extend", metavar="MODEL", help=models.FORMS)
    add(
        "--data",
        help="cifar10, mnist, an npz file with images and labels, or a folder with labels.csv "
        "(default: the data of the first model of the zoo, else cifar10)",
    )
    add("--images", type=int, default=50, help="how many, from the first")
    add("--labels", type=Path, metavar="CSV", help="of a folder: file,label of each image")
    add("--size", type=int, help="of a folder: scale images and cut this square out of the middle")
    add("--sections", nargs="+", default=list(SECTIONS), choices=SECTIONS, metavar="NAME",
        help=f"of {', '.join(SECTIONS)}")  # fmt: skip
    add("--rate", type=float, default=0.01, help="error rate of sigma")
    add("--samples", type=int, default=1000, help="noisy draws of each image")
    add("--effort", type=int, default=60, help="gradients an image, of the nearest error")
    add("--points", type=int, default=100, help="noisy points of each image")
    add("--windows", type=int, default=3, help="church windows of each model")
    add("--nodes", type=int, default=250, help="a side of a window")
    add("--quick", action="store_true", help=f"take {_words(QUICK)}")
    add("--records", type=Path, metavar="DIR",
        help="of one model: take sigma.npz and distance.npz from here")  # fmt: skip
    engine_options(parser)


def run(args: argparse.Namespace) -> int:
    settings = {name: getattr(args, name) for name in QUICK} | (QUICK if args.quick else {})
    device = torch.device(args.device)
    called = models.names(args.model)
    loaded = {
        name: models.load(each, device) for name, each in zip(called, args.model, strict=True)
    }
    data = args.data or _data_of(args.model)
    x, y, classes = images(data, args, device)
    given = {}
    if args.records is not None:
        if len(loaded) != 1:
            raise ValueError(f"--records must be of one model, --model gave {len(loaded)}")
        paths = {each: args.records / f"{each}.npz" for each in GIVEN}
        found = {each: Record.load(path) for each, path in paths.items() if path.is_file()}
        given = {next(iter(loaded)): found}
    results(args)
    made = report(
        loaded,
        x,
        y,
        out=args.out,
        data=str(data),
        classes=classes,
        sections=args.sections,
        rate=args.rate,
        records=given,
        run=args.kept,
        seed=args.seed,
        size=settings.pop("nodes"),
        **settings,
    )
    if not leads():
        return 0
    for title, lines in made.verdicts.items():
        print(f"\n{title}", *lines, sep="\n  ")
    for title, lines in made.skipped.items():
        print(f"\n{title}", *(f"left out: {line}" for line in lines), sep="\n  ")
    for title, lines in made.failed.items():
        for line in lines:
            print(f"robustcore: section {title} failed: {line}", file=sys.stderr)
    print(f"\nwrote {made.path}")
    return 1 if made.failed else 0


def images(
    data: str | Path, args: argparse.Namespace, device: torch.device
) -> tuple[Any, Tensor | None, Any]:
    """The first images, labels and names of classes, where these are known; a folder unread."""
    path = Path(data)
    n = inputs.integer("--images", args.images, 1)
    for option in ("labels", "size"):
        if getattr(args, option) is not None and not path.is_dir():
            raise ValueError(f"--{option} must be left out where --data is no folder, was {data}")
    if path.suffix == ".npz":
        return *_of_file(path, n, device), None
    if path.is_dir():
        known = LabelledFolder(path, args.labels, args.size)
        return LabelledFolder(path, args.labels, args.size, min(n, len(known))), None, None
    inputs.integer("--images", n, 1, 1000)
    x, y = zoo.load_images(n, device, str(data))
    return x, y, zoo.classes(str(data))


def _of_file(path: Path, n: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name][:n] for name in file.files if name in ("images", "labels")}
    except (OSError, ValueError) as error:
        raise OSError(f"--data must be an npz file that can be read, was {path}: {error}") from None
    pixels = arrays.get("images")
    if pixels is None or pixels.ndim not in (3, 4) or not len(pixels):
        raise ValueError(f"--data must hold images (N, C, H, W) or (N, H, W, C), {path} did not")
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.shape[1] not in (1, 3) and pixels.shape[3] in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    scale = 255 if pixels.dtype == np.uint8 else 1
    if scale == 1 and pixels.dtype.kind != "f":
        raise ValueError(f"--data must hold uint8 or floating images, {path} held {pixels.dtype}")
    x = torch.from_numpy(pixels.astype(np.float32) / scale).to(device)
    labels = arrays.get("labels")
    return x, None if labels is None else torch.from_numpy(labels.astype(np.int64)).to(device)


def _data_of(names: list[str]) -> str:
    known = (name.partition("-")[0] for name in names if name in zoo.names())
    return next(known, "cifar10")


def _words(settings: dict[str, int]) -> str:
    return ", ".join(f"--{name} {value}" for name, value in settings.items())
