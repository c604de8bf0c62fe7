"""The robustcore command: each subcommand is one call of the library, with its results on disk."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from robustcore import inputs, kernels, plot, zoo
from robustcore.distance import METHODS as DISTANCE_METHODS
from robustcore.distance import distance_to_error
from robustcore.noise import METHODS, sigma_at_error_rate
from robustcore.results import DistanceResult, Record, SigmaResult, compare


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0, 2 for bad input, 130 when interrupted."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        print(f"robustcore: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("robustcore: interrupted, nothing was written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robustcore", description="Measure how robust an image classifier is."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    layout = argparse.ArgumentDefaultsHelpFormatter

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

    about = "the Gaussian noise at which the error rate of each image reaches a rate"
    sigma = commands.add_parser("sigma", parents=[shared], help=about, formatter_class=layout)
    sigma.set_defaults(run=_sigma)
    add = sigma.add_argument
    add("--rate", type=float, default=0.01, help="the error rate")
    add("--samples", type=int, default=1000, help="noisy draws of each image")
    add("--rtol", type=float, help="stop at this relative half-width of the interval")
    add("--confidence", type=float, default=0.95, help="of the interval of each image")
    add("--sigma-max", type=float, default=1.0, help="where the search ends")
    add("--method", default="quantile", choices=METHODS, help="bisection is the paper's")
    add("--with-distance", action="store_true", help="find the nearest error (l2) as well")

    about = "the nearest error of each image"
    distance = commands.add_parser("distance", parents=[shared], help=about, formatter_class=layout)
    distance.set_defaults(run=_distance)
    add = distance.add_argument
    add("--norm", default="2", help="2 or inf")
    add("--method", default="minimum", choices=DISTANCE_METHODS, help="pgd is the paper's")
    add("--effort", type=int, default=60, help="gradients for each image and start (minimum)")
    add("--restarts", type=int, default=1, help="the nearest error of all is kept")
    add("--box", type=float, nargs=2, metavar=("LOW", "HIGH"), help="keep errors in this range")

    devices = commands.add_parser("devices", help="which backends can run here, and why not")
    devices.set_defaults(run=_devices)
    return parser


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _devices(args: argparse.Namespace) -> int:
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    for device in found:
        name = "" if device == "cpu" else f"  {torch.cuda.get_device_name(device)}"
        threads = f"  {torch.get_num_threads()} threads" if device == "cpu" else ""
        print(f"{device}{name}{threads}")
        default = kernels.select(None, device).name
        for backend in kernels.BACKENDS:
            reason = kernels.unavailable(backend, device)
            mark = "default" if backend == default else "runs" if reason is None else "no"
            print(f"  {backend:<10} {mark:<8} {reason or ''}".rstrip())
    if len(found) == 1:
        print("cuda\n  no CUDA device is visible to torch")
    return 0


def _sigma(args: argparse.Namespace) -> int:
    model, x, y = _example(args)
    found = sigma_at_error_rate(
        model,
        x,
        args.rate,
        y,
        samples=args.samples,
        rtol=args.rtol,
        confidence=args.confidence,
        sigma_max=args.sigma_max,
        method=args.method,
        progress=True,
        **_engine(args),
    )
    columns = _sigma_columns(found)
    near = None
    if args.with_distance:
        near = distance_to_error(model, x, y, progress=True, **_engine(args))
        both = compare(found, near)
        columns["distance"] = [_number(v, 3) for v in near.distance]
        columns["ratio"] = [_number(v, 2) for v in both.ratio]
    _print_table(columns)
    print(f"\n{found}")
    linear = np.median(found.half_space_distance)
    print(f"median distance if errors were a half-space, -sigma * Phi^-1(rate): {linear:.3f}")
    _print_cost(found)
    if near is not None:
        print(f"\n{near}")
        print(f"median ratio of the nearest error found to that distance: {both.median_ratio:.2f}")
        _print_cost(near)
        _write(near, args.out, "distance")
    _write(found, args.out, "sigma")
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    plot.sigma_histogram(found, figure.add_subplot())
    figure.savefig(args.out / "sigma.png")
    print(f"wrote {', '.join(sorted(path.name for path in args.out.iterdir()))} in {args.out}")
    return 0


def _distance(args: argparse.Namespace) -> int:
    model, x, y = _example(args)
    near = distance_to_error(
        model,
        x,
        y,
        norm=args.norm,
        method=args.method,
        effort=args.effort,
        restarts=args.restarts,
        box=args.box,
        progress=True,
        **_engine(args),
    )
    _print_table(
        {
            "image": [str(i) for i in near.ids],
            "label": [zoo.CLASSES[k] for k in near.labels],
            "distance": [_number(v, 4) for v in near.distance],
            "error": [zoo.CLASSES[k] if k >= 0 else "-" for k in near.label_adv],
            "status": [str(each) for each in near.status],
            "gradients": [f"{n:,}" for n in near.n_backward],
        }
    )
    print(f"\n{near}")
    _print_cost(near)
    _write(near, args.out, "distance")
    print(f"wrote distance.csv and distance.npz in {args.out}")
    return 0


def _example(args: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor]:
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


def _engine(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("seed", "batch_size", "backend", "compile")}


def _sigma_columns(found: SigmaResult) -> dict[str, list[str]]:
    ends = zip(found.sigma_low, found.sigma_high, strict=True)
    return {
        "image": [str(i) for i in found.ids],
        "label": [zoo.CLASSES[k] for k in found.labels],
        "sigma": [
            f"{s:.4f}" if status == "found" else str(status)
            for s, status in zip(found.sigma, found.status, strict=True)
        ],
        f"{100 * found.confidence:g} % interval": [f"{a:.4f} to {b:.4f}" for a, b in ends],
        "-s*Phi^-1(mu)": [_number(v, 3) for v in found.half_space_distance],
        "evaluations": [f"{n:,}" for n in found.n_forward],
    }


def _number(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def _print_table(columns: dict[str, list[str]]) -> None:
    widths = {name: max(map(len, [name, *cells])) for name, cells in columns.items()}
    for row in [tuple(columns), *zip(*columns.values(), strict=True)]:
        cells = (
            cell.ljust(width) if name == "label" else cell.rjust(width)
            for cell, (name, width) in zip(row, widths.items(), strict=True)
        )
        print("  ".join(cells).rstrip())


def _print_cost(record: SigmaResult | DistanceResult) -> None:
    how = record.provenance
    forward, backward = int(record.n_forward.sum()), int(record.n_backward.sum())
    gradients = f" and {backward:,} gradients" if backward else ""
    compiled = ", compiled model" if how.compiled else ""
    print(
        f"{forward:,} evaluations{gradients} of the model, {forward / len(record):,.0f} an image, "
        f"in {how.seconds:.1f} s on {how.device} ({how.backend} kernels{compiled})"
    )
    for note in how.notes:
        print(f"note: {note}")


def _write(record: Record, folder: Path, name: str) -> None:
    record.to_csv(folder / f"{name}.csv")
    record.save(folder / f"{name}.npz")
