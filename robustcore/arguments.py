"""Numbers, switches and choices that a caller gives: one conversion for all, without torch.

Each check names the argument, what it must be and what it was. Only real numbers are numbers: a
bool, a string, a complex number, a date and a masked array are none, though numpy or torch would
convert them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

SHOWN = 100  # characters of a value in a message
# What is an amount of noise or a distance lies between: a square, summed over all pixels of an
# image, is a finite float32, and the amount itself a normal one.
LARGEST = 1e15
TINIEST = 2.0**-126
NOT_INTEGERS = (bool, np.bool_, np.timedelta64, np.ma.MaskedArray)  # though some have an __index__


def shown(value: Any) -> str:
    """A value as messages show it."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of a caller's class: the message matters more
        text = type(value).__name__
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


# -- numbers -----------------------------------------------------------------------------------


def reals(name: str, value: Any, must_be: str = "a number") -> NDArray[np.float64]:
    """A number, a nest of lists, an array or a tensor as a new float64 array; infinities stay."""
    array = _array(name, value, must_be, _real)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be {must_be}, was {shown(value)}")
    with np.errstate(over="ignore"):  # of a long double: infinite
        return np.array(array, dtype=np.float64, order="C")


def integers(name: str, value: Any, must_be: str = "integers") -> NDArray[np.int64]:
    """An integer, a nest of lists, an array or a tensor as a new int64 array."""
    array = _array(name, value, must_be, _integer)
    if array.size == 0 and not hasattr(value, "dtype"):
        array = array.astype(np.int64)  # numpy takes an empty list for floats
    if array.dtype.kind not in "iu":
        was = getattr(value, "dtype", None)
        raise TypeError(f"{name} must be {must_be}, was {was or shown(value)}")
    most = np.iinfo(np.int64).max
    if array.dtype.kind == "u" and array.size and int(array.max()) > most:
        raise ValueError(f"{name} must be {must_be} of at most {most}, one was {int(array.max())}")
    return np.array(array, dtype=np.int64, order="C")


def number(name: str, value: Any, must_be: str = "a number") -> float:
    """One number, which may be infinite or NaN."""
    array = reals(name, value, must_be)
    if array.ndim:
        raise TypeError(f"{name} must be {must_be}, was {shown(value)}")
    return float(array)


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    try:
        value = _integer(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be an integer, was {shown(value)}") from None
    if value < low or (high is not None and value > high):
        span = f"at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be {span}, was {shown(value)}")
    return int(value)


def positive(name: str, value: Any) -> float:
    value = number(name, value)
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, was {value}")
    _held(name, value)
    return value


def not_negative(name: str, value: Any) -> float:
    value = number(name, value)
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be finite and not negative, was {value}")
    return value


def fraction(name: str, value: Any) -> float:
    value = number(name, value)
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, was {value}")
    return value


def grid(name: str, value: Any, zero: bool = False) -> NDArray[np.float64]:
    """A number or a flat list of numbers, positive or at least 0, to float64 (G,)."""
    values = np.atleast_1d(reals(name, value, "a number or a list of numbers"))
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name} must be a number or a flat grid, had shape {values.shape}")
    within = np.isfinite(values) & ((values >= 0) if zero else (values > 0))
    if not within.all():
        least = "finite and not negative" if zero else "positive and finite"
        raise ValueError(f"{name} must be {least}, one was {values[~within][0]}")
    _held(name, float(values.max()))
    _held(name, float(values[values > 0].min(initial=1.0)))
    return values


def pair(name: str, value: Any, must_be: str = "None or (low, high)") -> tuple[float, float]:
    """(low, high), both finite."""
    ends = reals(name, value, must_be)
    if ends.shape != (2,):
        raise TypeError(f"{name} must be {must_be}, was {shown(value)}")
    low, high = ends.tolist()
    if not low < high:
        raise ValueError(f"{name} must be (low, high) with low < high, was {(low, high)}")
    if not math.isfinite(high - low):
        raise ValueError(f"{name} must be (low, high), both finite, was {(low, high)}")
    return low, high


def broadcast(**arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Arrays by the names of their arguments, as numpy broadcasts them."""
    try:
        return tuple(np.broadcast_arrays(*arrays.values()))
    except ValueError:
        shapes = ", ".join(str(array.shape) for array in arrays.values())
        raise ValueError(
            f"{' and '.join(arrays)} must have shapes that broadcast, had {shapes}"
        ) from None


def _held(name: str, value: float) -> None:
    """Raises ValueError for an amount that float32 does not hold."""
    if value > LARGEST or 0 < value < TINIEST:
        raise ValueError(
            f"{name} must lie between {TINIEST:.2g} and {LARGEST:g}, as it is used in float32, "
            f"was {value}"
        )


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (Real, Decimal)):
        raise TypeError
    return float(value)


def _integer(value: Any) -> int:
    of_bools = str(getattr(value, "dtype", "")).endswith("bool")
    if isinstance(value, NOT_INTEGERS) or of_bools or getattr(value, "ndim", 0) > 0:
        raise TypeError
    return operator.index(value)


def _array(name: str, value: Any, must_be: str, one: Callable[[Any], Any]) -> NDArray[Any]:
    """The value as numpy has it; what only Python knows as a number is converted by `one`."""
    try:
        return _numpy(value, one)
    except OverflowError:
        raise ValueError(f"{name} must be {must_be} that float64 holds, was too large") from None
    except Exception:  # a caller's class may raise anything
        raise TypeError(f"{name} must be {must_be}, was {shown(value)}") from None


def _numpy(value: Any, one: Callable[[Any], Any]) -> NDArray[Any]:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError
    if isinstance(value, (list, tuple, range)):
        parts = [_numpy(entry, one) for entry in value]
        kinds = {part.dtype.kind for part in parts}
        if not kinds <= set("iuf"):
            raise TypeError
        if kinds == {"u", "i"}:  # numpy would take both for floats
            return np.array([part.tolist() for part in parts])
        return np.array(parts)
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    array = np.asarray(value)
    if array.dtype.kind == "O":
        array = np.array([one(entry) for entry in array.flat]).reshape(array.shape)
    return array


# -- switches, choices and records -------------------------------------------------------------


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, was {shown(value)}")
    return bool(value)


def optional_flag(name: str, value: Any) -> bool | None:
    """True, False, or None for an automatic choice."""
    return None if value is None else flag(name, value)


def choice(name: str, value: Any, known: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, was {shown(value)}")
    return str(value)


def optional_choice(name: str, value: Any, known: Sequence[str]) -> str | None:
    """One of the known, or None for an automatic choice."""
    if value is None:
        return None
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)} or None, was {shown(value)}")
    return str(value)


def left_out(name: str, value: Any, where: str) -> None:
    if value is not None:
        raise ValueError(f"{name} must be left out {where}, was {shown(value)}")


def string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, was {shown(value)}")
    return str(value)


def strings(name: str, value: Any) -> list[str]:
    """A list of strings; one string by itself is none."""
    listed = isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes))
    flat = getattr(value, "ndim", 1) == 1
    if not (listed and flat) or not all(isinstance(entry, str) for entry in value):
        raise TypeError(f"{name} must be a list of strings, was {shown(value)}")
    return [str(entry) for entry in value]


def function(name: str, value: Any) -> Any:
    """Anything that can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, was {type(value).__name__}")
    return value


def instance(name: str, value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be of type {kind.__name__}, was {type(value).__name__}")
    return value


def records(name: str, value: Any, kind: type[T], alone: str = "") -> dict[str, T]:
    """One record, which is called `alone`, or records by name."""
    if isinstance(value, kind):
        return {alone: value}
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{name} must be of type {kind.__name__}, or such records by name, "
            f"was {type(value).__name__}"
        )
    for key, record in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{name} must have strings as names, one was {shown(key)}")
        instance(f"{name}[{key!r}]", record, kind)
    return dict(value)
