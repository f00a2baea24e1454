"""Sums of bytes over many operations, without rounding errors that add up."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray, IntArray

FRACTION_BITS = 37
"""Bits behind the point of every summand: 10^7 roundings stay below 10^−4 bytes."""


class PrefixSums:
    """Sums of the first n of some amounts of bytes, for every n.

    Whole bytes and fractions are summed apart as whole numbers, since a float that sums gigabytes
    of a million tasks is further off than the validator's tolerance.

    Parameters
    ----------
    amounts : ndarray, shape (n,)
        Bytes, at least 0.
    """

    def __init__(self, amounts: FloatArray) -> None:
        whole = np.floor(amounts)
        rest = amounts - whole
        if whole.sum() < 2.0**62:
            exact: npt.NDArray[Any] = whole.astype(np.int64)
        else:
            # Sums of these may not fit 64 bits; numbers of Python always do.
            exact = np.array([int(amount) for amount in whole.tolist()], dtype=object)
        self._whole, self._rest = _prefixes(exact), None
        if rest.any():
            self._rest = _prefixes(np.rint(rest * 2.0**FRACTION_BITS).astype(np.int64))

    def minus(self, count: IntArray, other: PrefixSums, other_count: IntArray) -> FloatArray:
        """Return the sums of the first `count` minus those of the first `other_count` of another.

        Parameters
        ----------
        count, other_count : ndarray of int, shape (m,)
            How many amounts to sum.
        other : PrefixSums
            What to take away.

        Returns
        -------
        ndarray, shape (m,)
            Bytes.
        """
        bytes_ = (self._whole[count] - other._whole[other_count]).astype(np.float64)
        for rests, at, sign in ((self._rest, count, 1), (other._rest, other_count, -1)):
            if rests is not None:
                bytes_ += rests[at] * (sign * 2.0**-FRACTION_BITS)
        return np.asarray(bytes_)


def _prefixes(amounts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate((np.zeros(1, dtype=amounts.dtype), np.cumsum(amounts)))
