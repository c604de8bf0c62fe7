"""The robustcore command: each subcommand is one call of the library, with its results on disk."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from robustcore import inputs, kernels, plot, zoo
from robustcore.noise import METHODS, sigma_at_error_rate
from robustcore.results import SigmaResult


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

    sigma = commands.add_parser(
        "sigma",
        help="the Gaussian noise at which the error rate of each image reaches a rate",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    sigma.set_defaults(run=_sigma)
    add = sigma.add_argument
    add("--model", required=True, help=f"a network of the zoo: {', '.join(zoo.names())}")
    add("--images", type=int, default=40, help="how many CIFAR-10 test images, up to 1,000")
    add("--rate", type=float, default=0.01, help="the error rate")
    add("--out", type=Path, required=True, help="folder for sigma.csv, sigma.npz and sigma.png")
    add("--samples", type=int, default=1000, help="noisy draws of each image")
    add("--rtol", type=float, help="stop at this relative half-width of the interval")
    add("--confidence", type=float, default=0.95, help="of the interval of each image")
    add("--sigma-max", type=float, default=1.0, help="where the search ends")
    add("--method", default="quantile", choices=METHODS, help="bisection is the paper's")
    add("--seed", type=int, default=0, help="names the draws, with each image's number")
    add("--batch-size", type=int, help="images in a batch (default: by size and device)")
    add("--device", default=_best_device(), help="where the model runs")
    add("--backend", choices=kernels.BACKENDS, help="of the kernels (default: the fastest)")
    add("--compile", action=argparse.BooleanOptionalAction, help="default: where it pays")

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
    _writable(args.out)
    try:
        device = torch.device(args.device)
    except RuntimeError as error:
        raise ValueError(f"--device must name a torch device, was {args.device!r}") from error
    inputs.integer("--images", args.images, 1, 1000)
    model, x, y = zoo.load_example(args.model, args.images, device)
    start = time.perf_counter()
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
        seed=args.seed,
        batch_size=args.batch_size,
        backend=args.backend,
        compile=args.compile,
        progress=True,
    )
    seconds = time.perf_counter() - start
    print(_table(found))
    total = int(found.n_forward.sum())
    print(
        f"\n{found}\n"
        f"median distance to an error if errors were a half-space (-sigma * Phi^-1(rate)): "
        f"{np.median(found.half_space_distance):.3f}\n"
        f"{total:,} evaluations of the model, {total / max(len(found), 1):,.0f} an image, "
        f"in {seconds:.1f} s on {found.provenance.device} ({found.provenance.backend} kernels"
        f"{', compiled model' if found.provenance.compiled else ''})"
    )
    for note in found.provenance.notes:
        print(f"note: {note}")
    found.to_csv(args.out / "sigma.csv")
    found.save(args.out / "sigma.npz")
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    plot.sigma_histogram(found, figure.add_subplot())
    figure.savefig(args.out / "sigma.png")
    print(f"wrote sigma.csv, sigma.npz and sigma.png to {args.out}")
    return 0


def _writable(folder: Path) -> None:
    """Raise OSError before any work when results could not be written."""
    probe = folder / ".robustcore-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"--out must be a folder that can be written, was {folder}: {error}"
        ) from None


def _table(found: SigmaResult) -> str:
    percent = f"{100 * found.confidence:g} % interval"
    head = ("image", "label", "sigma", percent, "-s*Phi^-1(mu)", "evaluations")
    lines = [head]
    distance = found.half_space_distance
    for i in range(len(found)):
        sigma = f"{found.sigma[i]:.4f}" if found.status[i] == "found" else found.status[i]
        lines.append(
            (
                str(found.ids[i]),
                zoo.CLASSES[found.labels[i]],
                sigma,
                f"{found.sigma_low[i]:.4f} to {found.sigma_high[i]:.4f}",
                f"{distance[i]:.3f}",
                f"{found.n_forward[i]:,}",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 1 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
