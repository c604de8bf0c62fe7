"""What each measurement finds, as frozen records with their provenance. Needs no torch.

What all records can do (indexing, tables, saving, loading) is in record.py.
"""

from robustcore.results.audit import AuditResult
from robustcore.results.certify import CertifyResult, PredictResult
from robustcore.results.compare import NoiseAndDistance, compare
from robustcore.results.concentration import NoisyDistance
from robustcore.results.corruptions import CorruptionResult
from robustcore.results.distance import DistanceResult, PGDResult
from robustcore.results.noise import ErrorRate, SigmaResult
from robustcore.results.provenance import Provenance
from robustcore.results.rare import ErrorCurve, RareErrorRate, RareSigma
from robustcore.results.record import Record
from robustcore.results.slices import SliceResult

__all__ = [
    "AuditResult",
    "CertifyResult",
    "CorruptionResult",
    "DistanceResult",
    "ErrorCurve",
    "ErrorRate",
    "NoiseAndDistance",
    "NoisyDistance",
    "PGDResult",
    "PredictResult",
    "Provenance",
    "RareErrorRate",
    "RareSigma",
    "Record",
    "SigmaResult",
    "SliceResult",
    "compare",
]
