"""Figure 5: models under corruptions, by corruption and in groups, with their l_p robustness."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction

import numpy as np
from matplotlib.axes import Axes

from robustcore.plot.style import GREY, MARKS, SERIES, axes
from robustcore.results import CorruptionResult, PGDResult
from robustcore.results.corruptions import OMITTED, better_and_worse, side_by_side


def corruption_accuracy(models: Mapping[str, CorruptionResult], ax: Axes | None = None) -> Axes:
    """Accuracy of each model on clean images and under each corruption, the mean of its severities.

    Corruptions stand in the order of what the other models gain over the first, the largest gain at
    the top; a line parts those where they gain from the rest. Raises ValueError as `side_by_side`.
    """
    side_by_side(models)
    first, *others = models.values()
    better, worse = better_and_worse(first, *others) if others else (first.by_corruption(), {})
    order = ["clean images", *better, *worse]
    ax = axes(ax, (6.4, 5.6))
    rows = np.arange(len(order))
    for i, (name, each) in enumerate(models.items()):
        means = {"clean images": each.clean_accuracy, **each.by_corruption()}
        ax.plot(
            [100 * means[row] for row in order],
            rows,
            linestyle="",
            marker=MARKS[i % len(MARKS)],
            color=SERIES[i % len(SERIES)],
            markersize=6,
            label=name,
        )
    for row in (0.5, *([len(better) + 0.5] if better and worse else [])):
        ax.axhline(row, color=GREY, linewidth=1, linestyle=":")
    ax.set_yticks(rows, [row.replace("_", " ") for row in order])
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.set_xlim(0, 102)  # a mark at 100 is whole
    ax.grid(axis="y", color=GREY, alpha=0.2)
    ax.set_xlabel(f"accuracy (%) on {len(first)} images")
    _legend(ax, models)
    return ax


def corruption_groups(
    models: Mapping[str, CorruptionResult],
    robust: Mapping[str, Sequence[PGDResult]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Bars as in Fig. 5: clean accuracy, means of two groups of corruptions, l_p robustness.

    The groups are those where the models after the first do better than it in the mean, and those
    where they do not; Gaussian noise is in neither, as some are trained on it. robust: records of
    `pgd` by model. Raises ValueError as `side_by_side` and `better_and_worse`.
    """
    columns = side_by_side(models, robust)
    first, *others = models.values()
    groups = [
        [name for name in group if name not in OMITTED]
        for group in better_and_worse(first, *others)
    ]
    attacks = [i for i, test in enumerate(columns["test"]) if test.startswith(("L2 ", "Linf "))]
    labels = ["clean\nimages"]
    labels += [
        f"{len(group)} kinds\n{label}"  # of corruptions
        for group, label in zip(groups, ("helped", "not helped"), strict=True)
        if group
    ]
    labels += [_attack(str(columns["test"][i])) for i in attacks]
    ax = axes(ax, (7.2, 4.0))
    width = 0.8 / len(models)
    for i, (name, each) in enumerate(models.items()):
        means = each.by_corruption()
        heights = [each.clean_accuracy]
        heights += [float(np.mean([means[one] for one in group])) for group in groups if group]
        heights += [float(columns[name][j]) for j in attacks]
        at = np.arange(len(heights)) + (i - (len(models) - 1) / 2) * width
        ax.bar(at, 100 * np.array(heights), 0.92 * width, color=SERIES[i % len(SERIES)], label=name)
    ax.set_xticks(np.arange(len(labels)), labels, fontsize="small")
    ax.tick_params(axis="x", length=0)
    ax.set_ylim(0, 100)
    ax.set_ylabel("accuracy (%)")
    _legend(ax, models)
    return ax


def _attack(test: str) -> str:
    """ "Linf 0.03137" to what stands below a bar; a radius of few 255ths as such."""
    norm, eps = test.split()
    name = {"L2": r"$\ell_2$ PGD", "Linf": r"$\ell_\infty$ PGD"}[norm]
    steps = Fraction(255 * float(eps)).limit_denominator(2)
    near = norm == "Linf" and steps > 0 and abs(float(steps) / 255 / float(eps) - 1) < 1e-3
    return f"{name}\n{steps}/255" if near and steps.denominator == 1 else f"{name}\n{eps}"


def _legend(ax: Axes, names: Collection[str]) -> None:
    """Above the Axes, in as many columns as 6 inches hold."""
    column = 0.5 + 0.062 * max(map(len, names))
    ax.legend(
        frameon=False,
        fontsize="small",
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=max(1, min(len(names), int(6 / column))),
    )
