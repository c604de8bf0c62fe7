"""What the subcommands share: their options, the images they work on, tables and files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustcore import inputs, kernels, zoo
from robustcore.records import Record

LEFT = ("label", "corruption")  # columns of words, aligned on the left
LAYOUT = argparse.ArgumentDefaultsHelpFormatter


def options() -> argparse.ArgumentParser:
    """Options of every command that measures a model."""
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add("--model", required=True, help=f"a network of the zoo: {', '.join(zoo.names())}")
    add("--images", type=int, default=40, help="how many test images, up to 1,000")
    add("--out", type=Path, required=True, help="folder for the results")
    add("--seed", type=int, default=0, help="names the draws, with each image's number")
    add("--batch-size", type=int, help="images in a batch (default: by size and device)")
    add("--device", default=_best_device(), help="where the model runs")
    add("--backend", choices=kernels.BACKENDS, help="of the kernels (default: the fastest)")
    add("--compile", action=argparse.BooleanOptionalAction, help="default: where it pays")
    return shared


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def example(args: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor]:
    """The model and images asked for, once it is known that results can be written."""
    probe = args.out / ".robustcore-probe"
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        message = f"--out must be a folder that can be written, was {args.out}: {error}"
        raise OSError(message) from None
    try:
        device = torch.device(args.device)
    except RuntimeError as error:
        raise ValueError(f"--device must name a torch device, was {args.device!r}") from error
    inputs.integer("--images", args.images, 1, 1000)
    return zoo.load_example(args.model, args.images, device)


def engine(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("seed", "batch_size", "backend", "compile")}


def number(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def print_table(columns: dict[str, list[str]]) -> None:
    widths = {name: max(map(len, [name, *cells])) for name, cells in columns.items()}
    for row in [tuple(columns), *zip(*columns.values(), strict=True)]:
        cells = (
            cell.ljust(width) if name in LEFT else cell.rjust(width)
            for cell, (name, width) in zip(row, widths.items(), strict=True)
        )
        print("  ".join(cells).rstrip())


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


def write(record: Record, folder: Path, name: str) -> None:
    record.to_csv(folder / f"{name}.csv")
    record.save(folder / f"{name}.npz")
