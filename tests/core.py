"""csrc/core behind C functions, and its definitions in Python integers and numpy's float32."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DOUBLES = ("lanes_sum",)
FLOATS = ("clipped", "moved_l2", "moved_linf", "fused_product")


class Core:
    """The functions of core.cpp. Arrays go by address; a plain float is a float32."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))

    def __call__(self, name: str, *arguments: Any) -> Any:
        function = getattr(self.library, name)
        function.restype = None
        if name in DOUBLES:
            function.restype = ctypes.c_double
        if name in FLOATS:
            function.restype = ctypes.c_float
        if name == "usable":
            function.restype = ctypes.c_bool
        return function(*map(passed, arguments))


def passed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, np.float64):
        return ctypes.c_double(value)
    if isinstance(value, bool):
        return ctypes.c_bool(value)
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.c_float(value)


def build_core(folder: Path, csrc: Path = ROOT / "csrc") -> Core:
    """Compiled from the headers in `csrc`."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    command = ["g++", "-O0", "-std=c++17", "-ffp-contract=off", "-shared", "-fPIC", f"-I{csrc}"]
    sources = [str(ROOT / "tests/core.cpp"), "-o", str(folder / "core.so")]
    subprocess.run([*command, *sources], check=True, capture_output=True)
    return Core(folder / "core.so")


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 by Python's integers."""
    low = 0xFFFFFFFF
    c, k = counter, key
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & low, (p0 >> 32) ^ c[3] ^ k[1], p0 & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return c


def minus_twice_log(v: Any) -> Any:
    """-2 ln(v * 2^-32), by numpy's float32."""
    f32 = np.float32
    mantissa, exponent = np.frexp(v)  # in [1/2, 1)
    low = mantissa < np.uint32(0x3F3504F3).view(f32)
    mantissa, exponent = np.where(low, mantissa * f32(2), mantissa), exponent - low
    f = mantissa - f32(1)
    log = f32(-0.17444713)
    for a in (0.2873369, -0.29904532, 0.33124787, -0.39913666, 0.5000415, -0.66668373, 0.99999976):
        log = log * f + f32(a)
    log = (log * f + f32(-2)) * f
    return (32 - exponent).astype(f32) * f32(1.3862944) + log


def radii(words: Any) -> Any:
    """sqrt(-2 ln u) of words, by numpy's float32."""
    f32 = np.float32
    return np.sqrt(minus_twice_log(np.asarray(words).astype(f32) + f32(0.5)))


def box_muller(radius_word: int, angle_word: int) -> tuple[Any, Any]:
    """Two words to two normals, as the contract words it, by numpy's float32."""
    f32 = np.float32
    radius = radii(radius_word)
    quarter, fraction = angle_word >> 30, (angle_word >> 6) & 0xFFFFFF
    h = f32((fraction - (fraction >> 23 << 24) + 0.5) / 2**24)
    h2 = h * h
    sin = ((f32(-0.0046016593) * h2 + f32(0.07968003)) * h2 + f32(-0.6459635)) * h2
    sin = (sin + f32(1.5707964)) * h
    cos = ((f32(-0.020417282) * h2 + f32(0.25360322)) * h2 + f32(-1.2336977)) * h2 + f32(1)
    turned = [(cos, sin), (-sin, cos), (-cos, -sin), (sin, -cos)][quarter]
    return radius * turned[0], radius * turned[1]


def loop_margin(row: Any, label: int) -> tuple[Any, int]:
    """Margin and runner-up of one row as the contract words it."""
    best = None
    for j, value in enumerate(row):
        if j == label:
            continue
        if best is None or value > row[best] or (value != value and row[best] == row[best]):
            best = j
    assert best is not None
    return row[label] - row[best], best
