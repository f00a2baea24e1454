"""Checks of array fields, shared by all data objects of this package."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from lemix_opt.errors import FieldError, excerpt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def _raw(name: str, value: Any) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise FieldError(
            f"not an array ({error})", where=name, expected="a regular array"
        ) from None
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise FieldError(
            f"entries of type {array.dtype}", where=name, expected="numbers in a regular array"
        )
    return array


def _fit(name: str, array: npt.NDArray[Any], shape: tuple[int, ...] | None) -> npt.NDArray[Any]:
    if shape is not None:
        if array.ndim == 0:
            return np.broadcast_to(array, shape)
        if array.shape != shape:
            raise FieldError(f"shape {array.shape}", where=name, expected=f"shape {shape}")
    return array


def _first(
    name: str, array: npt.NDArray[Any], bad: BoolArray, expected: str, hint: str | None = None
) -> None:
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        at = f"{name}[{', '.join(map(str, index))}]" if index else name
        raise FieldError(f"value {array[index]}", where=at, expected=expected, hint=hint)


def floats(
    name: str,
    value: Any,
    shape: tuple[int, ...] | None = None,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    infinite: bool = False,
) -> FloatArray:
    """Return `value` as a read-only float array, or raise `FieldError` naming the first bad entry.

    Parameters
    ----------
    name : str
        Name of the field, used in the error.
    value : array_like
        Scalars are broadcast to `shape`.
    shape : tuple of int, optional
        Wanted shape; any shape passes when omitted.
    minimum, above, maximum : float, optional
        Bounds: at least, strictly more than, at most.
    infinite : bool, default False
        Whether infinity is allowed; NaN never is.
    """
    array = _fit(name, _raw(name, value), shape).astype(np.float64)
    if not _within(array, minimum, above, maximum, infinite):
        _name_bad_float(name, array, minimum, above, maximum, infinite)
    array.flags.writeable = False
    return array


def _within(
    array: FloatArray,
    minimum: float | None,
    above: float | None,
    maximum: float | None,
    infinite: bool,
) -> bool:
    """Whether all entries are in bounds, by the extremes alone: no array of the same length."""
    if not array.size:
        return True
    # NaN spreads into both extremes, and is in no bounds.
    low, high = float(array.min()), float(array.max())
    return (
        low <= high
        and (infinite or (low > -np.inf and high < np.inf))
        and (minimum is None or low >= minimum)
        and (above is None or low > above)
        and (maximum is None or high <= maximum)
    )


def _name_bad_float(
    name: str,
    array: FloatArray,
    minimum: float | None,
    above: float | None,
    maximum: float | None,
    infinite: bool,
) -> None:
    _first(name, array, np.isnan(array), "a number, not NaN")
    if not infinite:
        _first(name, array, np.isinf(array), "a finite number")
    if minimum is not None:
        _first(name, array, array < minimum, f"at least {minimum:g}")
    if above is not None:
        _first(name, array, array <= above, f"more than {above:g}")
    if maximum is not None:
        _first(name, array, array > maximum, f"at most {maximum:g}")


def integers(
    name: str,
    value: Any,
    shape: tuple[int, ...] | None = None,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
    hint: str | None = None,
) -> IntArray:
    """Return `value` as read-only int64; whole floats pass, fractions raise `FieldError`.

    `hint` says what to do about a value above the maximum.
    """
    array = _fit(name, _raw(name, value), shape)
    if array.dtype.kind == "f":
        _first(name, array, ~np.isfinite(array), "a whole number")
        _first(name, array, array != np.floor(array), "a whole number")
        _first(name, array, np.abs(array) >= 2.0**53, "a whole number below 2^53")
    if array.dtype.kind == "u":
        _first(name, array, array > np.iinfo(np.int64).max, "a number below 2^63")
    array = array.astype(np.int64)
    if minimum is not None and array.size and array.min() < minimum:
        _first(name, array, array < minimum, f"at least {minimum}")
    if maximum is not None and array.size and array.max() > maximum:
        _first(name, array, array > maximum, f"at most {maximum}", hint)
    array.flags.writeable = False
    return array


def whole(
    name: str, value: Any, *, minimum: int, maximum: int | None = None, hint: str | None = None
) -> int:
    """Return `value` as an int within bounds, or raise `FieldError`."""
    return int(integers(name, value, (), minimum=minimum, maximum=maximum, hint=hint))


def choice(name: str, value: str, known: tuple[str, ...]) -> str:
    """Return `value` if it is one of `known`, or raise `FieldError` naming them."""
    if value not in known:
        raise FieldError(excerpt(repr(value)), where=name, expected=f"one of {', '.join(known)}")
    return value


def arrays_equal(left: Any, right: Any) -> bool:
    """Compare two dataclass objects field by field, arrays by content."""
    if type(left) is not type(right):
        return False
    for name in left.__dataclass_fields__:
        a, b = getattr(left, name), getattr(right, name)
        same = np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        # NaN stands for "there is none", which two objects may share.
        if not same and not (a is b or (isinstance(a, float) and a != a and b != b)):
            return False
    return True


def checked_limits(
    time_limit_s: float, deterministic_limit: float | None
) -> tuple[float, float | None]:
    """Return both limits, of which one must be finite: searches end by nothing else.

    Raises
    ------
    FieldError
        If a limit is not above 0 or NaN, or the only one is infinite.
    """
    limit_s = float(floats("time_limit_s", time_limit_s, (), above=0, infinite=True))
    if deterministic_limit is not None:
        return limit_s, float(floats("deterministic_limit", deterministic_limit, (), above=0))
    if limit_s == math.inf:
        raise FieldError(
            "infinite, and there is no deterministic limit",
            where="time_limit_s",
            expected="a finite number of seconds, or a deterministic limit beside it",
        )
    return limit_s, None
