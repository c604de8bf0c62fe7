"""Records of every kind that figures are drawn from, made up."""

import numpy as np
import torch
from test_plot import record as sigma_record
from test_results import provenance

from robustcore.corruptions import COMMON
from robustcore.results import (
    CorruptionResult,
    DistanceResult,
    ErrorRate,
    NoiseAndDistance,
    NoisyDistance,
    PGDResult,
    SliceResult,
    compare,
)

RANDOM = np.random.default_rng(0)


def distances(n: int = 60, lost: int = 0) -> DistanceResult:
    distance = RANDOM.lognormal(-2.5, 0.5, n)
    distance[:lost] = np.inf
    ones = np.ones(n, int)
    columns = dict.fromkeys(("label_adv", "restart", "step", "n_forward", "n_backward"), ones)
    return DistanceResult(
        **columns, ids=np.arange(n), labels=ones, distance=distance, targets=-ones,
        status=np.where(np.isinf(distance), "not_found", "found"), norm="L2",
        x_adv=torch.zeros(n, 1, 1, 1), provenance=provenance(),
    )  # fmt: skip


def pairs(n: int = 120) -> NoiseAndDistance:
    return compare(sigma_record(n - 6, 4, 2), distances(n, 3))


def robust(n: int = 10) -> PGDResult:
    ones = np.ones(n, int)
    columns = dict.fromkeys(("label_adv", "restart", "step", "n_forward", "n_backward"), ones)
    return PGDResult(
        **columns, ids=np.arange(n), labels=ones, eps=[0.1, 0.2], norm="Linf",
        fooled=np.stack([np.arange(n) < 2, np.arange(n) < 5], 1), masked=ones < 0,
        distance=np.where(np.arange(n) < 1, 0.0, 0.15), x_adv=torch.zeros(n, 1, 1, 1),
        provenance=provenance(),
    )  # fmt: skip


def rates(n: int = 12) -> ErrorRate:
    counts = RANDOM.integers(0, 50, (n, 3))
    samples = np.full((n, 3), 50)
    return ErrorRate(
        ids=np.arange(n), labels=np.zeros(n, int), sigma=[0.2, 0.0, 0.1], rate=counts / 50,
        rate_low=counts / 60, rate_high=counts / 50, n_errors=counts, n_samples=samples,
        n_forward=samples[:, 0], n_backward=samples[:, 0], confidence=0.95, provenance=provenance(),
    )  # fmt: skip


def noisy_points(n: int = 30, sigma: float | None = 0.1) -> NoisyDistance:
    noise = np.full(n, sigma) if sigma else RANDOM.uniform(0.01, 0.2, n)
    distance = 0.8 * noise
    ones = np.full(n, 100)
    rate = RANDOM.integers(0, 30, n)
    return NoisyDistance(
        ids=np.arange(n), labels=ones, sigma=noise, distance=distance, distance_low=0.9 * distance,
        distance_high=np.where(np.arange(n) < 2, np.inf, 1.1 * distance), error_rate=rate / 100,
        rate_low=rate / 120, rate_high=rate / 80, n_errors=rate, n_samples=ones, n_forward=ones,
        n_backward=ones, status=np.full(n, "found"), distances=np.tile(distance, (5, 1)).T,
        confidence=0.95, provenance=provenance(),
    )  # fmt: skip


def window(drawn: bool = True, classes: int = 3, side: int = 60) -> SliceResult:
    up, across = np.meshgrid(np.linspace(-2, 2, side), np.linspace(-2, 2, side), indexing="ij")
    label = np.where(up < 0.2, 0, 1 + (across > 0) * (np.abs(across) * 3).astype(int) % classes)
    axes = torch.eye(12)[:2].view(2, 1, 3, 2, 2)
    nan = np.full(1, np.nan)
    some = np.ones(1, int)
    return SliceResult(
        ids=[7], labels=[0], status=["drawn" if drawn else "no_noise_error"], sigma=[0.4],
        error_rate=[0.01], class_rate=[0.008], half_space_distance=[0.25],
        points=[[[1.4, 0.3], [0.0, 0.25]]], point_labels=[[1, 1]], connected=[drawn],
        edge_distance=nan, edge_degrees=nan, edge_rms=nan, edge_largest=nan, half_width=[2.0],
        classes=label[None].astype(np.int16), margin=(0.2 - up)[None].astype(np.float32),
        evaluated=np.ones((1, side, side), bool), n_evaluated=some, n_forward=some,
        n_backward=some, axis_across=axes[0], axis_up=axes[1], across="noise", up="adversarial",
        provenance=provenance(),
    )  # fmt: skip


def table(images: int = 20, **accuracy: float) -> CorruptionResult:
    """A record of the 15 corruptions at severity 1, half right where nothing else is said."""
    share = np.array([accuracy.get(name, 0.5) for name in COMMON])
    return CorruptionResult(
        ids=np.arange(images), labels=np.zeros(images, np.int64),
        correct=np.arange(images)[:, None] < images * share, clean_correct=np.ones(images, bool),
        corruption=np.array(COMMON), severity=np.ones(15, np.int64),
        n_forward=np.ones(images, np.int64), confidence=0.95, provenance=provenance(),
    )  # fmt: skip
