"""What a corruption benchmark finds: a record of its own, with the conditions as its table."""

# ruff: noqa: RUF009 (per_image and shared make dataclass fields)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robustcore import arguments
from robustcore.arguments import records, shown
from robustcore.results.distance import PGDResult
from robustcore.results.provenance import refuse_other_images
from robustcore.results.record import Record, per_image, shared
from robustcore.stats import clopper_pearson

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

OMITTED = ("gaussian_noise",)  # from the paper's overall score, as a model may be trained on it
FAMILIES = {  # of the 15 corruptions, without the one that is omitted
    "noise": ("shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class CorruptionResult(Record):
    """Which of B images a model gets right, clean and in each of G conditions.

    A condition is corruption[g] at severity[g], grouped by corruption. correct and clean_correct
    are true where the right class alone has the largest logit. Accuracies and their
    Clopper-Pearson intervals at `confidence`, each by itself, follow from them, also for a part of
    the images. Its table has one row for each condition, after one of the clean images with
    severity 0.
    """

    correct: Bools = per_image(np.bool_, "G")
    clean_correct: Bools = per_image(np.bool_)
    corruption: npt.NDArray[np.str_] = shared(np.str_, "G")
    severity: Ints = shared(np.int64, "G")
    n_forward: Ints = per_image(np.int64)
    confidence: float

    @property
    def accuracy(self) -> Floats:
        """Of each condition, (G,); NaN for no images."""
        return np.sum(self.correct, 0) / np.float64(len(self) or np.nan)

    @property
    def clean_accuracy(self) -> float:
        return float(np.sum(self.clean_correct) / np.float64(len(self) or np.nan))

    @property
    def names(self) -> tuple[str, ...]:
        """The corruptions, in the order of the conditions."""
        return tuple(dict.fromkeys(str(each) for each in self.corruption))

    def by_corruption(self) -> dict[str, float]:
        """Accuracy of each corruption, the mean of its severities."""
        accuracy = self.accuracy
        return {name: float(accuracy[self.corruption == name].mean()) for name in self.names}

    def mean_accuracy(self, exclude: Sequence[str] = ()) -> float:
        """The mean over corruptions; the paper leaves out ("gaussian_noise",) in its Fig. 5.

        Raises ValueError for a name in `exclude` that was not measured, or where none is left.
        """
        means = self._kept(self.by_corruption(), exclude)
        return float(np.mean(list(means.values())))

    def corruption_errors(
        self, reference: Mapping[str, float] | CorruptionResult
    ) -> dict[str, float]:
        """Error of each corruption over the reference's.

        reference: the error of each, such as `robustcore.corruptions.ALEXNET` for ImageNet at five
        severities, or another record of the same corruptions and severities. Raises ValueError.
        """
        if isinstance(reference, CorruptionResult):
            mine, other = (
                set(zip(each.corruption.tolist(), each.severity.tolist(), strict=True))
                for each in (self, reference)
            )
            if mine != other:
                raise ValueError("reference must hold the same corruptions and severities")
            reference = {name: 1 - value for name, value in reference.by_corruption().items()}
        missing = [name for name in self.names if name not in reference]
        if missing:
            raise ValueError(f"reference must hold every corruption, lacked {', '.join(missing)}")
        zero = [name for name in self.names if not reference[name] > 0]
        if zero:
            raise ValueError(f"reference must have errors above 0, had none for {zero[0]}")
        return {name: (1 - mean) / reference[name] for name, mean in self.by_corruption().items()}

    def mce(
        self, reference: Mapping[str, float] | CorruptionResult, exclude: Sequence[str] = ()
    ) -> float:
        """Mean corruption error (Hendrycks and Dietterich, 2019), 1 for the reference itself."""
        errors = self._kept(self.corruption_errors(reference), exclude)
        return float(np.mean(list(errors.values())))

    def _kept(self, values: dict[str, float], exclude: Sequence[str]) -> dict[str, float]:
        unknown = [name for name in exclude if name not in values]
        if unknown:
            raise ValueError(f"exclude must name corruptions measured, but held {unknown[0]!r}")
        kept = {name: value for name, value in values.items() if name not in exclude}
        if not kept:
            raise ValueError("exclude must leave a corruption, left none")
        return kept

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """One row for the clean images, then one for each condition."""
        right = np.append(np.sum(self.clean_correct), np.sum(self.correct, 0)).astype(np.int64)
        low, high = np.zeros(len(right)), np.ones(len(right))
        if len(self):
            low, high = clopper_pearson(right, len(self), self.confidence)
        return {
            "corruption": np.append("clean", self.corruption),
            "severity": np.append(0, self.severity),
            "accuracy": np.append(self.clean_accuracy, self.accuracy),
            "accuracy_low": low,
            "accuracy_high": high,
            "n_correct": right,
            "n_images": np.full(len(right), len(self)),
        }

    def _summary(self) -> str:
        head = f"{super()._summary()}, {len(self.corruption)} conditions"
        if not len(self) or not len(self.corruption):
            return head
        return f"{head}; accuracy {self.clean_accuracy:.3f} clean, {self.mean_accuracy():.3f} mean"


def better_and_worse(
    one: CorruptionResult, *others: CorruptionResult
) -> tuple[dict[str, float], dict[str, float]]:
    """How Fig. 5 groups corruptions: those where the others do better than `one`, and the rest.

    Returns two dictionaries of corruption to (mean accuracy of the others minus accuracy of one),
    largest gain first, over the corruptions that all hold. Raises ValueError where there are none.
    """
    mine, *theirs = (each.by_corruption() for each in (one, *others))
    gains = {
        name: float(np.mean([each[name] for each in theirs])) - accuracy
        for name, accuracy in mine.items()
        if theirs and all(name in each for each in theirs)
    }
    if not gains:
        raise ValueError("others must hold corruptions that one holds, held none")
    ordered = dict(sorted(gains.items(), key=lambda item: -item[1]))
    better = {name: gain for name, gain in ordered.items() if gain > 0}
    return better, {name: gain for name, gain in ordered.items() if gain <= 0}


def gain(
    one: CorruptionResult, other: CorruptionResult, names: Sequence[str]
) -> tuple[float, float]:
    """Accuracy of `other` less that of `one`, the mean of these corruptions, and its uncertainty.

    Returns the mean over images and half of its 95 % interval (normal; each image is paired with
    itself; infinite for one image). Raises ValueError for other images or conditions, and for a
    name that was not measured.
    """
    _checked({"one": one, "other": other})
    if not np.array_equal(one.ids, other.ids) or not np.array_equal(one.labels, other.labels):
        raise ValueError("other must hold the images of one, held other ids or labels")
    refuse_other_images("one and other", one.provenance, other.provenance, one.ids.tolist())
    missing = [name for name in names if name not in one.names]
    if missing or not len(one):
        raise ValueError(f"one must hold {', '.join(missing) or 'an image'}, held none")
    more = other.correct.astype(float) - one.correct
    rows = np.mean([more[:, one.corruption == name].mean(1) for name in names], axis=0)
    error = rows.std(ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.inf
    return float(rows.mean()), float(1.96 * error)


def side_by_side(
    models: Mapping[str, CorruptionResult],
    robust: Mapping[str, Sequence[PGDResult]] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Accuracies of models beside each other, as in appendix B, and their l_p robustness.

    models: one record a model, by name, of the same conditions. robust: records of `pgd`, by name.
    Returns columns of equal length: test, severity and one for each model. Rows: the clean images;
    each condition; "mean", over corruptions, and "mean without gaussian_noise"; and robust accuracy
    under each norm at each radius, NaN for a model without it. severity is 0 where there is none.
    Raises ValueError for no models, other conditions, or a name in `robust` only.
    """
    first = _checked(models)
    attacks = _robustness(models, {} if robust is None else robust)
    rest = ["mean", *(f"mean without {name}" for name in OMITTED if name in first.names)]
    left_out = [(), OMITTED][: len(rest)]
    rows = {
        name: [
            each.clean_accuracy,
            *each.accuracy,
            *(each.mean_accuracy(exclude) for exclude in left_out),
            *(rates.get(name, np.nan) for rates in attacks.values()),
        ]
        for name, each in models.items()
    }
    tests = ["clean", *first.corruption.tolist(), *rest, *attacks]
    severity = np.zeros(len(tests), np.int64)
    severity[1 : 1 + len(first.severity)] = first.severity
    columns = {name: np.array(values) for name, values in rows.items()}
    return {"test": np.array(tests), "severity": severity, **columns}


def _checked(models: Mapping[str, CorruptionResult]) -> CorruptionResult:
    """The first of records of the same conditions."""
    if isinstance(models, CorruptionResult):
        raise TypeError("models must be records by name, was one CorruptionResult")
    models = records("models", models, CorruptionResult)
    if not models:
        raise ValueError("models must hold at least one record, held none")
    first = next(iter(models.values()))
    for name, each in models.items():
        if not (
            np.array_equal(each.corruption, first.corruption)
            and np.array_equal(each.severity, first.severity)
        ):
            raise ValueError(f"models must hold the same conditions, but those of {name} differ")
    return first


def _robustness(
    models: Mapping[str, CorruptionResult], robust: Mapping[str, Sequence[PGDResult]]
) -> dict[str, dict[str, float]]:
    """Robust accuracy by test ("Linf 0.0314") and model."""
    found: dict[tuple[str, float], dict[str, float]] = {}
    if not isinstance(robust, Mapping):
        raise TypeError(f"robust must be lists of PGDResult by name, was {type(robust).__name__}")
    for name, its in robust.items():
        if name not in models:
            raise ValueError(f"robust must name models, of {', '.join(models)}, named {name!r}")
        if not isinstance(its, Sequence):
            raise TypeError(f"robust must be lists of PGDResult by name, one was {shown(its)}")
        for each in its:
            record = arguments.instance("robust", each, PGDResult)
            for eps, rate in zip(record.eps, record.robust_accuracy, strict=True):
                found.setdefault((record.norm, float(eps)), {})[name] = float(rate)
    return {f"{norm} {eps:.4g}": rates for (norm, eps), rates in sorted(found.items())}
