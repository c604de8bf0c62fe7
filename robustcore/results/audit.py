"""What the isoperimetric bound says of an attack: the record of `audit_attack`, and its tests."""

# ruff: noqa: RUF009 (per_image and shared make dataclass fields)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, bdtrc, ndtr, ndtri

from robustcore.geometry import isoperimetric_bound
from robustcore.results.concentration import median_interval, ratio
from robustcore.results.record import Record, counted, per_image
from robustcore.stats import clopper_pearson

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Strings = npt.NDArray[np.str_]

VERDICTS = ("missed errors", "consistent", "undecided", "misclassified")
RATE_SHARE = 0.2  # of the error of a verdict, for the error rate; the rest is for the distances
ROUNDING = 2e-3  # of a radius, to the attack's favour: float32 pixels, nudged off a boundary


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class AuditResult(Record):
    """What the isoperimetric bound says of an attack, for B images at G values of sigma each.

    distances (B, G, N): from each of N draws of N(x, sigma^2 I) to the error that the attack gave
    for it: 0 for a draw that is an error itself, inf where the attack gave none. n_errors of
    n_samples (B, G) draws are errors. eps: the radius within which the attack looks, or None.

    The theorem: with mu the error rate, at least half of all draws have an error within
    -sigma * Phi^-1(mu), and a share Phi(Phi^-1(mu) + eps / sigma) of them one within eps.

    verdict of each image, wrong with a probability of at most 1 - `confidence`, however many sigmas
    were tried, for the confidence is shared between them:

    - "missed errors": at a sigma, the attack's median exceeds the bound, or its share within eps is
      too small, even at the limits of both: there are nearer errors than it found;
    - "consistent": at every sigma it is within the bound even at the other limits;
    - "undecided": neither is shown; more points, or another sigma, may decide;
    - "misclassified": the image itself is an error and was left out.

    "consistent" is no praise: an attack may miss errors where these leave the bound much room.

    n_not_errors, n_not_finite (B, G): images that the attack returned which the model gets right,
    and which held NaN or inf; both count as not found. clean_distance (B,): of the attack's error
    for the image itself; noise_distance (B,): of the nearest error among all draws.
    """

    sigma: Floats = per_image(np.float64, "G")
    n_errors: Ints = per_image(np.int64, "G")
    n_samples: Ints = per_image(np.int64, "G")
    n_not_errors: Ints = per_image(np.int64, "G")
    n_not_finite: Ints = per_image(np.int64, "G")
    clean_distance: Floats = per_image(np.float64)
    noise_distance: Floats = per_image(np.float64)
    misclassified: Bools = per_image(np.bool_)
    n_forward: Ints = per_image(np.int64)
    distances: Floats = per_image(np.float64, "G", "N")
    confidence: float
    eps: float | None

    derived: ClassVar[tuple[str, ...]] = ("verdict", "noise_nearer")

    # -- what was measured ----------------------------------------------------------------------

    @property
    def error_rate(self) -> Floats:
        """(B, G)."""
        return self.n_errors / self.n_samples

    @property
    def median(self) -> Floats:
        """The attack's median distance (B, G): inf where it found errors for less than half."""
        return median_interval(self.distances, 0.5)[0]

    @property
    def bound(self) -> Floats:
        """-sigma * Phi^-1(error_rate), or 0 from 1/2 on, (B, G)."""
        return np.asarray(isoperimetric_bound(self.sigma, self.error_rate))

    @property
    def ratio(self) -> Floats:
        """median / bound (B, G)."""
        return ratio(self.median, self.bound)

    @property
    def noise_nearer(self) -> Bools:
        """Where a random draw was an error nearer to the image than the attack's own, (B,)."""
        reach = (
            self.clean_distance if self.eps is None else np.minimum(self.clean_distance, self.eps)
        )
        return (self.noise_distance < reach) & ~self.misclassified

    # -- what follows ---------------------------------------------------------------------------

    @property
    def verdict(self) -> Strings:
        """Of each image by itself, (B,)."""
        level = (1 - self.confidence) / max(1, self.sigma.shape[1])
        found = np.where(self._missed(level).any(1), VERDICTS[0], VERDICTS[2])
        found = np.where(self._within(level).all(1), VERDICTS[1], found)
        return np.where(self.misclassified, VERDICTS[3], found)

    @property
    def proven(self) -> Bools:
        """Images (B,) whose errors were missed, with `confidence` for all of them together."""
        cells = max(1, int(np.sum(~self.misclassified)) * self.sigma.shape[1])
        return self._missed((1 - self.confidence) / cells).any(1) & ~self.misclassified

    @property
    def overall(self) -> str:
        """The verdict on the attack, wrong with a probability of at most 1 - `confidence`.

        Half of that is for any single image, shared among all, and half for all draws together: at
        each sigma they are one sample of how often the attack is within the bound.
        """
        level, judged = 1 - self.confidence, ~self.misclassified
        cells = max(1, int(judged.sum()) * self.sigma.shape[1])
        if self._missed(level / 2 / cells)[judged].any() or self._pooled_missed(level / 2):
            return VERDICTS[0]
        return VERDICTS[1] if self._pooled_within(level) else VERDICTS[2]

    def _rates(self, tail: float) -> tuple[Floats, Floats]:
        """Lower and upper limit of each error rate, each missed with probability `tail`."""
        return clopper_pearson(self.n_errors, self.n_samples, 1 - 2 * tail)

    def _demand(self, rate: Floats) -> tuple[Ints, Floats]:
        """How many draws the attack has within the radius, and the share that the theorem wants."""
        if self.eps is None:
            radius = np.asarray(isoperimetric_bound(self.sigma, rate))
            share = np.where(np.isinf(radius), 0.0, 0.5)
        else:
            radius = np.full(self.sigma.shape, self.eps)
            with np.errstate(divide="ignore"):
                share = ndtr(ndtri(rate) + self.eps / self.sigma)
        hits = np.sum(self.distances <= radius[..., None] * (1 + ROUNDING), -1)
        return hits, share

    def _missed(self, level: float) -> Bools:
        hits, share = self._demand(self._rates(RATE_SHARE * level)[0])
        return at_most(hits, self.distances.shape[-1], share) <= (1 - RATE_SHARE) * level

    def _within(self, level: float) -> Bools:
        hits, share = self._demand(self._rates(RATE_SHARE * level)[1])
        return at_least(hits, self.distances.shape[-1], share) <= (1 - RATE_SHARE) * level

    def _pooled(self, level: float, which: int) -> tuple[Ints, int, Floats]:
        """Hits and the share wanted over all images judged, at each sigma (G,)."""
        judged = ~self.misclassified
        cells = max(1, int(judged.sum()) * self.sigma.shape[1])
        hits, share = self._demand(self._rates(RATE_SHARE * level / cells)[which])
        draws = self.distances.shape[-1] * int(judged.sum())
        return hits[judged].sum(0), draws, share[judged].mean(0)

    def _pooled_missed(self, level: float) -> bool:
        if not np.any(~self.misclassified):
            return False
        hits, draws, share = self._pooled(level, 0)
        # sums of draws of several probabilities: the tails of the binomial with their mean bound
        # theirs, more than one below the mean (Hoeffding, 1956)
        far = hits <= draws * share - 1
        tail = (1 - RATE_SHARE) * level / self.sigma.shape[1]
        return bool(np.any(far & (at_most(hits, draws, share) <= tail)))

    def _pooled_within(self, level: float) -> bool:
        if not np.any(~self.misclassified):
            return False
        hits, draws, share = self._pooled(level, 1)
        far = hits >= draws * share + 1
        tail = (1 - RATE_SHARE) * level / self.sigma.shape[1]
        return bool(np.all(far & (at_least(hits, draws, share) <= tail)))

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        cells = {name: getattr(self, name) for name in ("error_rate", "median", "bound", "ratio")}
        return super().columns() | {name: cell.reshape(-1) for name, cell in cells.items()}

    def count(self, verdict: str) -> int:
        """How many images have this verdict."""
        return int(np.sum(self.verdict == verdict))

    def _summary(self) -> str:
        sigmas = counted(self.sigma.shape[1], "sigma")
        head = f"{super()._summary()}, {sigmas}, {self.distances.shape[-1]} points each"
        if not len(self):
            return head
        counts = ", ".join(f"{n} {each}" for each in VERDICTS if (n := self.count(each)))
        known = self.ratio[~np.isnan(self.ratio)]
        middle = f"{np.median(known):.2f}" if known.size else "-"
        noise = f"; noise found nearer errors on {n}" if (n := int(self.noise_nearer.sum())) else ""
        return (
            f"{head}: {self.overall} (confidence {self.confidence:g}); {counts}; median distance "
            f"{middle} of the bound{noise}"
        )


def at_most(hits: Ints, draws: int, share: Floats) -> Floats:
    """P(Bin(draws, share) <= hits)."""
    return np.asarray(bdtr(hits.astype(float), draws, share))


def at_least(hits: Ints, draws: int, share: Floats) -> Floats:
    """P(Bin(draws, share) >= hits)."""
    inside = bdtrc(np.maximum(hits - 1, 0).astype(float), draws, share)
    return np.where(hits <= 0, 1.0, inside)
