"""Robustness of classifiers: random noise and adversarial examples, two views of one error set."""

from importlib.metadata import version as _version

from robustcore import geometry, plot, runs, stats
from robustcore.certify import certify, predict
from robustcore.concentration import adapters, audit_attack, noisy_distance
from robustcore.copies import noisy_copies
from robustcore.corruptions import corrupt, corruption_benchmark
from robustcore.distance import distance_to_error, pgd
from robustcore.engine import Engine
from robustcore.errors import AnyOf, OneLogit, Tolerance, TopK
from robustcore.evaluator import RandomizedModelWarning
from robustcore.fused import pack
from robustcore.noise import (
    Gaussian,
    Laplace,
    Noise,
    SaltAndPepper,
    Speckle,
    Subspace,
    Uniform,
    principal_components,
)
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
from robustcore.sigma import error_rate, scale_at_error_rate, sigma_at_error_rate
from robustcore.slices import church_windows
from robustcore.sources import LabelledFolder
from robustcore.warning import PixelRangeWarning
from robustcore.zoo import load_example, load_images, load_model, wrap

__version__ = _version("robustcore")

__all__ = [
    "AnyOf",
    "AuditResult",
    "CertifyResult",
    "DistanceResult",
    "Engine",
    "ErrorCurve",
    "ErrorRate",
    "Gaussian",
    "LabelledFolder",
    "Laplace",
    "Noise",
    "NoiseAndDistance",
    "NoisyDistance",
    "OneLogit",
    "PGDResult",
    "PixelRangeWarning",
    "PredictResult",
    "RandomizedModelWarning",
    "RareErrorRate",
    "RareSigma",
    "Record",
    "Report",
    "SaltAndPepper",
    "SigmaResult",
    "SliceResult",
    "Speckle",
    "Subspace",
    "Tolerance",
    "TopK",
    "Uniform",
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
    "principal_components",
    "report",
    "runs",
    "scale_at_error_rate",
    "sigma_at_error_rate",
    "stats",
    "wrap",
]
