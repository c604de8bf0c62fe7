"""Robustness of classifiers: random noise and adversarial examples, two views of one error set."""

from importlib.metadata import version as _version

from robustcore import geometry, plot, runs, stats
from robustcore.certify import certify, predict
from robustcore.concentration import adapters, audit_attack, noisy_distance
from robustcore.copies import noisy_copies
from robustcore.corruptions import corrupt, corruption_benchmark
from robustcore.distance import distance_to_error, pgd
from robustcore.engine import Engine
from robustcore.evaluator import RandomizedModelWarning
from robustcore.fused import pack
from robustcore.noise import error_rate, sigma_at_error_rate
from robustcore.rare import error_curve
from robustcore.report import Report, report
from robustcore.results import (
    AuditResult,
    CertifyResult,
    DistanceResult,
    ErrorCurve,
    ErrorRate,
    NoiseAndDistance,
    NoisyDistance,
    PGDResult,
    PredictResult,
    RareErrorRate,
    RareSigma,
    Record,
    SigmaResult,
    SliceResult,
    compare,
)
from robustcore.slices import church_windows
from robustcore.sources import LabelledFolder
from robustcore.warning import PixelRangeWarning
from robustcore.zoo import load_example, load_images, load_model, wrap

__version__ = _version("robustcore")

__all__ = [
    "AuditResult",
    "CertifyResult",
    "DistanceResult",
    "Engine",
    "ErrorCurve",
    "ErrorRate",
    "LabelledFolder",
    "NoiseAndDistance",
    "NoisyDistance",
    "PGDResult",
    "PixelRangeWarning",
    "PredictResult",
    "RandomizedModelWarning",
    "RareErrorRate",
    "RareSigma",
    "Record",
    "Report",
    "SigmaResult",
    "SliceResult",
    "adapters",
    "audit_attack",
    "certify",
    "church_windows",
    "compare",
    "corrupt",
    "corruption_benchmark",
    "distance_to_error",
    "error_curve",
    "error_rate",
    "geometry",
    "load_example",
    "load_images",
    "load_model",
    "noisy_copies",
    "noisy_distance",
    "pack",
    "pgd",
    "plot",
    "predict",
    "report",
    "runs",
    "sigma_at_error_rate",
    "stats",
    "wrap",
]
