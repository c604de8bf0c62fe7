"""What the subcommands share: their options, the images they work on, tables and files."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcore import inputs, kernels, zoo
from robustcore.cli import models
from robustcore.engine import Engine
from robustcore.errors import Criterion, OneLogit, TopK
from robustcore.results import Record
from robustcore.results.files import write_whole
from robustcore.runs import leads
from robustcore.sources import LabelledFolder

LEFT = ("label", "corruption")  # columns of words, aligned on the left
SHOWN = 200  # rows of a table that is printed


class LAYOUT(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not that there is none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        none = action.default is None or action.default is False
        return action.help if none else super()._get_help_string(action)


def options() -> argparse.ArgumentParser:
    """Options of every command that measures a model."""
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    known = ", ".join(zoo.names())
    add("--model", required=True, help=f"{models.FORMS}; the zoo has {known}")
    add("--images", type=int, help="how many, from the first (default: 40 of the zoo, else all)")
    add("--data", type=Path, metavar="FOLDER", help="of images (default: the zoo's test images)")
    add("--labels", type=Path, metavar="CSV", help="file,label of each (default: in the folder)")
    add("--size", type=int, help="scale images and cut this square out of the middle")
    engine_options(shared)
    return shared


def engine_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that keeps runs and writes results."""
    add = parser.add_argument
    add("--out", type=Path, help="folder for the results (default: that of --run)")
    # torchrun takes --run for a beginning of its own --run-path, whatever it stands behind
    how = "keep finished images, and go on (--run-dir under torchrun)"
    add("--run", "--run-dir", type=Path, dest="kept", metavar="DIR", help=how)
    add("--seed", type=int, default=0, help="names the draws, with each image's number")
    add("--batch-size", type=int, help="images in a batch (default: by size and device)")
    add("--device", default=_best_device(), help="where the model runs")
    add("--backend", choices=kernels.BACKENDS, help="of the kernels (default: the fastest)")
    add("--error", type=error, default="top1", metavar="E", help="top1, top5, ... or one-logit")
    add("--compile", action=argparse.BooleanOptionalAction, help="default: where it pays")


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def results(args: argparse.Namespace) -> None:
    """Sees to the folder of the results, before any work."""
    args.out = args.out or args.kept
    if args.out is None:
        raise ValueError("--out must be a folder for the results, unless --run is given")
    if leads():
        inputs.folder("--out", args.out)


def example(args: argparse.Namespace) -> tuple[Engine, Any, Tensor]:
    """The model, images and labels asked for, once it is known that results can be written."""
    results(args)
    device = torch.device(args.device)
    if args.data is not None:
        x = LabelledFolder(args.data, args.labels, args.size, args.images)
        return engine(models.load(args.model, device), args), x, torch.from_numpy(x.y)
    for option in ("labels", "size"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option} must be left out without --data")
    images = inputs.integer("--images", 40 if args.images is None else args.images, 1, 1000)
    data = args.model.partition("-")[0] if args.model in zoo.names() else "cifar10"
    model = engine(models.load(args.model, device), args)
    return model, *zoo.load_images(images, device, data)


def classes(args: argparse.Namespace) -> Sequence[str]:
    """The names of classes, where they are known; else their numbers."""
    if args.data is None and args.model in zoo.names():
        return zoo.classes(args.model)
    return Numbers()


class Numbers(Sequence[str]):
    """The classes of a set that has no names for them."""

    def __getitem__(self, k: Any) -> Any:
        return str(k)

    def __len__(self) -> int:
        return 2**62


def error(text: str) -> str | Criterion:
    """The criterion of error that an option names."""
    if text == "one-logit":
        return OneLogit()
    if re.fullmatch("top[1-9][0-9]*", text):
        return text if text == "top1" else TopK(int(text[3:]))
    raise argparse.ArgumentTypeError(f"must be top1, top5, ... or one-logit, was {text!r}")


def engine(model: Any, args: argparse.Namespace) -> Engine:
    return Engine(
        model,
        error=args.error,
        batch_size=args.batch_size,
        backend=args.backend,
        compile=args.compile,
        precision=getattr(args, "precision", None),
        progress=True,
    )


def fraction(text: str, more: str = "") -> float:
    """A number, or a fraction such as 8/255, of an option."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(
            f"must be a number, or a fraction such as 8/255, {more}was {text!r}"
        ) from None


def number(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def print_table(columns: dict[str, list[str]]) -> None:
    total = max(map(len, columns.values()))
    columns = {name: cells[:SHOWN] for name, cells in columns.items()}
    widths = {name: max(map(len, [name, *cells])) for name, cells in columns.items()}
    for row in [tuple(columns), *zip(*columns.values(), strict=True)]:
        cells = (
            cell.ljust(width) if name in LEFT else cell.rjust(width)
            for cell, (name, width) in zip(row, widths.items(), strict=True)
        )
        print("  ".join(cells).rstrip())
    if total > SHOWN:
        print(f"and {total - SHOWN:,} more, in the CSV file")


def print_cost(record: Any) -> None:
    """Of a record that counts n_forward for each image, and n_backward where it has gradients."""
    how = record.provenance
    forward, backward = (
        int(np.sum(getattr(record, f"n_{each}", 0))) for each in ("forward", "backward")
    )
    gradients = f" and {backward:,} gradients" if backward else ""
    compiled = ", compiled model" if how.compiled else ""
    print(
        f"{forward:,} evaluations{gradients} of the model, {forward / len(record):,.0f} an image, "
        f"in {how.seconds:.1f} s on {how.device} ({how.backend} kernels{compiled})"
    )
    for note in how.notes:
        print(f"note: {note}")


def write_figure(figure: Any, path: Path) -> None:
    write_whole(path, lambda file: figure.savefig(file, format="png"))


def write(record: Record, folder: Path, name: str) -> None:
    record.to_csv(folder / f"{name}.csv")
    record.save(folder / f"{name}.npz")
