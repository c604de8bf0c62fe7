"""Fig. 1 and appendix F: a half-space of errors, and how near it is in many dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from scipy.special import ndtri

from robustcore.arguments import fraction, grid, integer, positive, shown
from robustcore.geometry import half_space_distance, typical_noise_norm
from robustcore.plot.style import BLUE, GREY, MARKS, ORANGE, SERIES, axes, tint

RATES = (0.3, 0.1, 0.01, 1e-3, 1e-4, 1e-6)
DIMENSIONS = {"3": 3, "MNIST, 784": 784, "CIFAR-10, 3,072": 3072, "ImageNet, 150,528": 150528}


def half_space(sigma: float = 0.1, rate: float = 0.01, n: int = 20, ax: Axes | None = None) -> Axes:
    """Noise of N(x0, sigma^2 I) in n dimensions, and the half-space in which `rate` of it falls.

    To scale: the circle has radius sigma * sqrt(n), the half-space lies -sigma * Phi^-1(rate) away.
    sigma: above 0. rate: in (0, 1/2). n: at least 1. Source: Fig. 1 and equation 1.
    """
    sigma = positive("sigma", sigma)
    n = integer("n", n, 1, 2**53)
    rate = _below_half("rate", rate)
    ax = axes(ax, (5.0, 4.9))
    radius, near = float(typical_noise_norm(sigma, n)), float(half_space_distance(sigma, rate))
    reach = 1.25 * max(radius, near)
    ax.axhspan(near, reach, color=tint(ORANGE, 0.3), linewidth=0)
    ax.axhline(near, color=ORANGE, linewidth=1.5)
    ax.add_patch(Circle((0, 0), radius, fill=False, color="black", linewidth=1.2))
    angle = np.arcsin(min(near / radius, 1.0)) if near < radius else np.pi / 2
    b = radius * np.cos(angle + 0.08), radius * np.sin(angle + 0.08)
    ax.plot([0, 0], [0, near], color="black", linewidth=1)
    ax.plot([0, b[0]], [0, b[1]], color=BLUE, linewidth=1, linestyle="--")
    for at, colour, mark, word in (
        ((0.0, 0.0), "black", "o", "$x_0$"),
        ((0.0, near), ORANGE, "D", f"A, the nearest error: {near:.3g}"),
        (b, BLUE, "s", rf"B, an error in noise: $\sigma\sqrt{{n}}$ = {radius:.3g}"),
    ):
        ax.plot(*at, marker=mark, color=colour, linestyle="", label=word, markersize=6)
    ax.text(-0.96 * reach, 0.94 * reach, "errors $E$", color=ORANGE, va="top")
    ax.legend(frameon=False, loc="upper center", fontsize="small", bbox_to_anchor=(0.5, -0.14))
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    ax.set_xlabel(r"$\ell_2$, pixel units of [0, 1]")
    ax.set_ylabel("across the boundary")
    words = rf"$n$ = {n:,}, $\sigma$ = {sigma:g}: {100 * rate:g} % of noise in the half-space"
    ax.set_title(words, fontsize="medium")
    return ax


def _below_half(name: str, value: float) -> float:
    rate = fraction(name, value)
    if rate >= 0.5:
        raise ValueError(f"{name} must lie below 1/2, was {rate}")
    return rate


def nearness_by_dimension(rates: Sequence[float] = RATES, ax: Axes | None = None) -> Axes:
    """Distance of the half-space over the norm of typical noise, against the dimension.

    -Phi^-1(rate) / sqrt(n), whatever sigma: one curve for each rate, in (0, 1/2). Source: app. F.
    """
    shares = [_below_half("rates", rate) for rate in grid("rates", rates)]
    ax = axes(ax)
    n = np.logspace(0, 6, 200)
    for i, rate in enumerate(shares):
        ratio = half_space_distance(1.0, rate) / typical_noise_norm(1.0, n)
        colour = SERIES[i % len(SERIES)]
        ax.loglog(
            n, ratio, color=colour, label=f"{100 * rate:g} %", marker=MARKS[i % len(MARKS)],
            markevery=(10 * i % 40, 40), markersize=4.5,
        )  # fmt: skip
    beside = ("center", "right", "left", "center")  # MNIST and CIFAR-10 stand close
    for (word, at), side in zip(DIMENSIONS.items(), beside, strict=True):
        ax.axvline(at, color=GREY, linewidth=0.8, linestyle=":")
        ax.text(at, 1.02, word.partition(",")[0], color=GREY, fontsize="small", ha=side,
                transform=ax.get_xaxis_transform())  # fmt: skip
    # opaque, as a dotted line runs behind it
    opaque = {"framealpha": 1, "edgecolor": "none"}
    ax.legend(title="error rate", fontsize="small", loc="lower left", **opaque)
    ax.set_xlabel("components of an image, $n$")
    ax.set_ylabel("nearest error / typical noise")
    ax.set_xlim(1, 1e6)
    return ax


def nearness_by_rate(dimensions: dict[str, int] | None = None, ax: Axes | None = None) -> Axes:
    """The same ratio against the error rate: one curve for each dimension. Source: app. F."""
    if dimensions is not None and not isinstance(dimensions, Mapping):
        raise TypeError(f"dimensions must be counts by name, was {shown(dimensions)}")
    sizes = {
        str(word): integer("dimensions", n, 1, 2**53)
        for word, n in (dimensions or DIMENSIONS).items()
    }
    ax = axes(ax)
    rate = np.logspace(-9, np.log10(0.49), 200)
    for i, (word, n) in enumerate(sizes.items()):
        ratio = -ndtri(rate) / np.sqrt(n)
        ax.loglog(
            rate, ratio, color=SERIES[i % len(SERIES)], label=word, marker=MARKS[i % len(MARKS)],
            markevery=(10 * i, 40), markersize=4.5,
        )  # fmt: skip
    ax.legend(frameon=False, title="components, $n$", fontsize="small", loc="lower left")
    ax.set_xlabel("error rate in noise")
    ax.set_ylabel("nearest error / typical noise")
    return ax
