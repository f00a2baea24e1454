"""How much slower work becomes that shares a GPU, from measurements."""

from __future__ import annotations

from functools import cache
from importlib import resources

import msgspec
import numpy as np
import numpy.typing as npt

from lemix_opt.checks import FloatArray, floats, integers
from lemix_opt.contention import Contention
from lemix_opt.costs import Costs
from lemix_opt.errors import FieldError, unknown

MIN_TOKENS = 4096
"""Tokens from which a prefill keeps a whole A100 busy, so that fewer SMs show in its time."""


class ShareSlowdown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds on a share of a GPU's SMs over seconds on all of them, by share.

    Parameters
    ----------
    name : str
        Name of the calibration.
    work : str
        What was measured: ``prefill`` or ``decode``.
    gpu : str
        On which kind of GPU.
    min_tokens : int
        Only batches of at least so many tokens (rows × length) are behind it.
    share : tuple of float
        Measured shares, ascending, the last one 1.
    slowdown : tuple of float
        Median at each share over models, GPUs and batches.
    quartiles : tuple of (float, float)
        First and third quartile there: the spread.
    points : tuple of int
        Measurements there.
    mape_pct : float
        Mean absolute error in percent of seconds below a full share, each model and number of
        GPUs being predicted from the medians of the others.
    source, licence, sha256 : str
        Dataset, its licence, and the hash of the file.
    """

    name: str
    work: str
    gpu: str
    min_tokens: int
    share: tuple[float, ...]
    slowdown: tuple[float, ...]
    quartiles: tuple[tuple[float, float], ...]
    points: tuple[int, ...]
    mape_pct: float
    source: str
    licence: str
    sha256: str

    def at(self, share: npt.ArrayLike) -> FloatArray:
        """Return the factor (at least 1) at shares of the SMs, linear between the measured ones.

        Raises
        ------
        FieldError
            For a share below the least measured one, or above 1.
        """
        wanted = floats("share", share, minimum=self.share[0], maximum=1)
        return np.asarray(np.maximum(np.interp(wanted, self.share, self.slowdown), 1.0))

    def contention(self, forward_share: float = 0.5) -> Contention:
        """Return the contention of a forward and a backward that divide a GPU's SMs.

        An assumption, not a measurement: while both run, the forward has the given share and the
        backward the rest, and a backward slows down with its share as the measured work does.

        Parameters
        ----------
        forward_share : float, default 0.5
            Share of the SMs; it and the rest must be measured ones or lie between them.
        """
        forward, backward = self.at([forward_share, 1 - forward_share]).tolist()
        return Contention(forward, backward)


class PairSlowdown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of a training step beside another training job over seconds alone.

    Parameters
    ----------
    name : str
        Name of the calibration.
    gpu : str
        On which kind of GPU.
    slowdown : float
        Median over jobs and companions.
    quartiles : (float, float)
        First and third quartile: the spread.
    pairs, unfit : int
        Ordered pairs measured, and those that do not fit on the GPU, together or one alone.
    source, licence, sha256 : str
        Dataset, its licence, and the hash of the file.
    """

    name: str
    gpu: str
    slowdown: float
    quartiles: tuple[float, float]
    pairs: int
    unfit: int
    source: str
    licence: str
    sha256: str

    def contention(self) -> Contention:
        """Return the contention if a forward and a backward are like two training jobs.

        An assumption, not a measurement: what was measured are whole training steps side by side.
        """
        factor = max(self.slowdown, 1.0)
        return Contention(factor, factor)


class _Packaged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shares: tuple[ShareSlowdown, ...]
    pairs: tuple[PairSlowdown, ...]


def fit_share_slowdown(
    name: str,
    group: npt.ArrayLike,
    share: npt.ArrayLike,
    batch: npt.ArrayLike,
    length: npt.ArrayLike,
    seconds: npt.ArrayLike,
    *,
    work: str,
    gpu: str,
    source: str,
    licence: str,
    sha256: str,
    min_tokens: int = MIN_TOKENS,
) -> ShareSlowdown:
    """Take medians of seconds over seconds with all SMs, shape by shape.

    Parameters
    ----------
    name, work, gpu, source, licence, sha256
        See `ShareSlowdown`.
    group : array_like, shape (R,)
        What was measured, for instance a model and a number of GPUs; ratios are within a group.
    share : array_like, shape (R,)
        Share of the SMs, 1 for all.
    batch, length : array_like of int, shape (R,)
        Rows and tokens per row.
    seconds : array_like, shape (R,)
        Measured times in any one unit; NaN marks a run that is missing, which is left out.
    min_tokens : int, default 4096
        Smaller batches are left out.

    Raises
    ------
    FieldError
        If nothing is left that was measured on all SMs and on fewer.
    """
    raw = np.asarray(seconds, dtype=np.float64)
    rows = integers("batch", batch, raw.shape, minimum=1)
    tokens = integers("length", length, raw.shape, minimum=1)
    part = floats("share", share, raw.shape, above=0, maximum=1)
    kept = ~np.isnan(raw) & (rows * tokens >= min_tokens)
    groups = np.unique(np.asarray(group), return_inverse=True)[1].ravel()
    shapes = np.column_stack([groups, rows, tokens])[kept]
    shape = np.unique(shapes, axis=0, return_inverse=True)[1].ravel()
    part, times = part[kept], floats("seconds", raw[kept], above=0)
    full = np.full(shape.max(initial=-1) + 1, np.nan)
    full[shape[part == 1]] = times[part == 1]
    paired = ~np.isnan(full[shape])
    of_group, part = shapes[paired, 0], part[paired]
    ratio = times[paired] / full[shape[paired]]
    shares = np.unique(part)
    if shares.size < 2:
        raise FieldError(
            f"shares {shares.tolist()} at {min_tokens} tokens and more",
            where=source,
            expected="times on all SMs (share 1) and on fewer, of the same shapes",
        )
    at = [ratio[part == s] for s in shares]
    return ShareSlowdown(
        name,
        work,
        gpu,
        min_tokens,
        tuple(shares.tolist()),
        tuple(_rounded(np.median(r)) for r in at),
        tuple((_rounded(np.quantile(r, 0.25)), _rounded(np.quantile(r, 0.75))) for r in at),
        tuple(r.size for r in at),
        round(_held_out_pct(of_group, part, ratio), 2),
        source,
        licence,
        sha256,
    )


def _rounded(value: np.floating[npt.NBitBase] | float) -> float:
    return float(f"{value:.4g}")


def _held_out_pct(group: npt.NDArray[np.int64], share: FloatArray, ratio: FloatArray) -> float:
    """Predict every group's ratios below a full share from the others' medians."""
    errors = []
    for g in np.unique(group):
        for s in np.unique(share[share < 1]):
            here, others = (share == s) & (group == g), (share == s) & (group != g)
            if here.any() and others.any():
                errors.append(np.abs(np.median(ratio[others]) / ratio[here] - 1))
    return float(100 * np.mean(np.concatenate(errors))) if errors else float("nan")


def fit_pair_slowdown(
    name: str,
    rate_ratio: npt.ArrayLike,
    *,
    gpu: str,
    source: str,
    licence: str,
    sha256: str,
) -> PairSlowdown:
    """Take the median slow-down of a job over its companions.

    Parameters
    ----------
    name, gpu, source, licence, sha256
        See `PairSlowdown`.
    rate_ratio : array_like, shape (R,)
        A job's steps per second beside its companion over those alone, one entry per ordered
        pair; NaN where the pair does not fit.

    Raises
    ------
    FieldError
        If no pair fits.
    """
    ratio = np.asarray(rate_ratio, dtype=np.float64)
    fits = ~np.isnan(ratio)
    slower = 1 / floats("rate_ratio", ratio[fits], above=0)
    if not slower.size:
        raise FieldError("no pair that fits", where=source, expected="at least one")
    return PairSlowdown(
        name,
        gpu,
        _rounded(np.median(slower)),
        (_rounded(np.quantile(slower, 0.25)), _rounded(np.quantile(slower, 0.75))),
        int(fits.sum()),
        int((~fits).sum()),
        source,
        licence,
        sha256,
    )


def scaled_costs(costs: Costs, slowdown: npt.ArrayLike) -> Costs:
    """Return costs whose seconds on a GPU are stretched, class by class; hops and bytes stay.

    Two models that share SMs are two node classes, each with the factor of its share. That
    backwards and updates slow down as the measured work does is an assumption: they were not
    measured on a share.

    Parameters
    ----------
    costs : Costs
        Seconds on whole GPUs, of one class, which then stands for all, or of as many as there are
        factors.
    slowdown : array_like, shape (K,)
        Factor of every class, more than 0.

    Raises
    ------
    FieldError
        If the number of factors does not fit the classes.
    """
    factor = np.atleast_1d(floats("slowdown", slowdown, above=0))
    if factor.ndim != 1 or costs.classes not in (1, factor.size):
        raise FieldError(
            f"shape {factor.shape}",
            where="slowdown",
            expected=f"({costs.classes},), one factor for every node class",
        )
    classes = factor.size
    each = factor[:, None, None]

    def repeated(array: FloatArray) -> FloatArray:
        return np.broadcast_to(array, (classes, *array.shape[1:]))

    return Costs(
        repeated(costs.forward_s) * each,
        repeated(costs.backward_s) * each,
        repeated(costs.held_bytes),
        repeated(costs.resident_bytes),
        repeated(costs.update_s) * factor[:, None],
        repeated(costs.hop_s),
        repeated(costs.all_reduce_s),
        None if costs.iteration is None else costs.iteration.scaled(factor),
    )


@cache
def _packaged() -> _Packaged:
    content = (resources.files("predictors") / "sharing.json").read_bytes()
    return msgspec.json.decode(content, type=_Packaged)


def load_share_slowdown(name: str) -> ShareSlowdown:
    """Return the packaged slow-down by SM share called `name`.

    Raises
    ------
    UnknownNameError
        For an unknown name.
    """
    known = {c.name: c for c in _packaged().shares}
    if name not in known:
        raise unknown("slow-down by share", name, known)
    return known[name]


def load_pair_slowdown(name: str) -> PairSlowdown:
    """Return the packaged slow-down of training pairs called `name`.

    Raises
    ------
    UnknownNameError
        For an unknown name.
    """
    known = {c.name: c for c in _packaged().pairs}
    if name not in known:
        raise unknown("slow-down of pairs", name, known)
    return known[name]
