"""robustcore corruptions: accuracy under the 15 corruptions at five severities."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from robustcore import runs
from robustcore.cli.common import example, print_cost, print_table, write, write_figure
from robustcore.corruptions import COMMON, NAMES, corruption_benchmark
from robustcore.corruptions.benchmark import STORAGE
from robustcore.distance import pgd
from robustcore.engine import Engine
from robustcore.plot.figure5 import corruption_accuracy
from robustcore.results import CorruptionResult, PGDResult, Record
from robustcore.results.corruptions import OMITTED

ABOUT = "accuracy under image corruptions, and under attack beside"
EPS = {"inf": (1 / 255, 2 / 255, 8 / 255), "2": (0.25, 0.5)}  # of --with-robustness


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--corruptions", nargs="+", default=COMMON, choices=NAMES, metavar="NAME", help="of these")
    add("--severities", nargs="+", type=int, default=[1, 2, 3, 4, 5], metavar="N", help="1 to 5")
    add("--storage", default="memory", choices=STORAGE, help="how corrupted images are stored")
    add("--quality", type=int, default=85, help="of --storage jpeg")
    add("--confidence", type=float, default=0.95, help="of the interval of each accuracy")
    add(
        "--reference",
        type=Path,
        help="corruptions.npz of another model, for the mean corruption error",
    )
    add("--with-robustness", action="store_true", help="robust accuracy under PGD (linf, l2) too")


def run(args: argparse.Namespace) -> int:
    engine, x, y = example(args)
    reference = _reference(args)
    found = corruption_benchmark(
        engine,
        x,
        y,
        corruptions=args.corruptions,
        severities=args.severities,
        storage=args.storage,
        quality=args.quality,
        confidence=args.confidence,
        run=args.kept,
        seed=args.seed,
    )
    robust = _robust(args, engine, x, y)
    if not runs.leads():
        return 0
    accuracy = found.accuracy.reshape(len(found.names), -1)
    means = found.by_corruption()
    columns = {"corruption": [name.replace("_", " ") for name in found.names]}
    for i, severity in enumerate(args.severities):
        columns[f"severity {severity}"] = [f"{value:.3f}" for value in accuracy[:, i]]
    print_table(columns | {"mean": [f"{value:.3f}" for value in means.values()]})
    print(f"\n{found}")
    if set(OMITTED) < set(found.names):
        print(f"mean without {', '.join(OMITTED)}: {found.mean_accuracy(OMITTED):.3f}")
    if reference is not None:
        print(f"mean corruption error over that of the reference: {found.mce(reference):.3f}")
    print_cost(found)
    write(found, args.out, "corruptions")
    for each in robust:
        print(f"\n{each}")
        print_cost(each)
        write(each, args.out, f"robust_{each.norm.lower()}")
    figure = Figure(figsize=(6.4, 5.6), dpi=150, layout="constrained")
    corruption_accuracy({args.model: found}, figure.add_subplot())
    write_figure(figure, args.out / "corruptions.png")
    print(f"wrote {', '.join(sorted(path.name for path in args.out.iterdir()))} in {args.out}")
    return 0


def _robust(args: argparse.Namespace, engine: Engine, x: Any, y: Any) -> list[PGDResult]:
    """Robust accuracy, where it was asked for, under each norm."""
    found = []
    for norm, eps in EPS.items() if args.with_robustness else ():
        with runs.named(f"l{norm}"):
            each = pgd(engine, x, y, eps=eps, norm=norm, seed=args.seed, run=args.kept)
        found.append(each)
    return found


def _reference(args: argparse.Namespace) -> CorruptionResult | None:
    """Read before the long run, and refused where the errors could not be compared."""
    if args.reference is None:
        return None
    held = Record.load(args.reference)
    wanted = {(name, each) for name in args.corruptions for each in args.severities}
    if not isinstance(held, CorruptionResult) or wanted != set(
        zip(held.corruption.tolist(), held.severity.tolist(), strict=True)
    ):
        raise ValueError(
            f"--reference must hold the corruptions and severities asked for: {args.reference}"
        )
    return held
