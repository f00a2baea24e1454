"""Which runs will not fit: a limit on the predicted peak, and how sure its counts are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, floats, integers, whole


@dataclass(frozen=True)
class Share:
    """A share of counted rows with its exact interval.

    Parameters
    ----------
    hits, of : int
        Counted rows.
    low, high : float
        Exact binomial (Clopper-Pearson 1934) interval of 95 %.
    """

    hits: int
    of: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """Hits over rows, NaN of none."""
        return self.hits / self.of if self.of else float("nan")

    def __str__(self) -> str:
        return (
            f"{self.hits} of {self.of} ({100 * self.value:.1f} %, "
            f"95 % interval {100 * self.low:.1f} to {100 * self.high:.1f} %)"
        )


def exact_share(hits: int, of: int) -> Share:
    """Share with its Clopper-Pearson interval, from quantiles of the beta distribution."""
    from scipy.stats import beta

    of = whole("of", of, minimum=0)
    hits = int(integers("hits", hits, (), minimum=0, maximum=of))
    tail = 0.025
    low = float(beta.ppf(tail, hits, of - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, of - hits)) if hits < of else 1.0
    return Share(hits, of, low, high)


def fit_limit(predicted: FloatArray, failed: BoolArray, false_alarms: float = 0.05) -> float:
    """Bytes of predicted peak above which runs count as out of memory.

    What runs on a GPU is less than its capacity by context, libraries and fragments, and the
    prediction errs; the limit takes all of it in. A run that fails costs more than one that is
    refused in vain: the limit is the lowest with at most the given share of false alarms.

    Parameters
    ----------
    predicted : ndarray, shape (R,)
        Predicted peaks, by models that were not fitted on these runs.
    failed : ndarray of bool, shape (R,)
        Which runs ran out of memory.
    false_alarms : float, default 0.05
        Most runs said to fail among those that did not, as a share.

    Returns
    -------
    float
        The limit; infinite if no run failed.
    """
    allowed = float(floats("false_alarms", false_alarms, (), minimum=0, maximum=1))
    if not failed.any():
        return float("inf")
    ran = np.sort(predicted[~failed])
    # Between two runs, so that predictions of the same run by a model fitted anew fall on one side.
    above = int(allowed * ran.size)
    if above >= ran.size:
        return 0.0
    highest = ran[ran.size - 1 - above]
    over = predicted[predicted > highest]
    if not over.size:
        return float(highest)
    middle, nearest = (highest + np.min(over)) / 2, np.min(over)
    # The middle of two neighbouring floats is one of them.
    return float(middle if middle < nearest else highest)
