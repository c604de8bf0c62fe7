"""The corruptions of Hendrycks and Dietterich (2019), batched and seeded, and their benchmark."""

from robustcore.corruptions.benchmark import corruption_benchmark
from robustcore.corruptions.corrupt import corrupt
from robustcore.corruptions.files import ArrayFile, ImageFiles, corruption_benchmark_files
from robustcore.corruptions.parameters import ALEXNET, COMMON, EXTRA, NAMES, PARAMETERS

__all__ = [
    "ALEXNET",
    "COMMON",
    "EXTRA",
    "NAMES",
    "PARAMETERS",
    "ArrayFile",
    "ImageFiles",
    "corrupt",
    "corruption_benchmark",
    "corruption_benchmark_files",
]
