"""How far what a task holds lies from its prediction: held-out residuals of measured runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import msgspec
import numpy as np

from lemix_opt.checks import FloatArray, floats, whole
from lemix_opt.errors import FieldError


@dataclass(frozen=True, eq=False)
class MemorySpread:
    """Log of measured over predicted bytes, of what a run holds beside weights and states.

    Parameters
    ----------
    residuals : ndarray, shape (R,)
        On runs of models that the prediction was not fitted on.
    source, sha256 : str
        Measured runs behind them with their licence, and the hash of the file.
    """

    residuals: FloatArray
    source: str
    sha256: str

    def log_quantile(self, quantile: float) -> float:
        """Log of the factor on a prediction that a task stays below with probability `quantile`.

        Conformal, one-sided, see `predictors.intervals.conformal_quantile`.

        Raises
        ------
        FieldError
            If there are too few residuals for the quantile.
        """
        from predictors.intervals import conformal_quantile

        found = conformal_quantile(self.residuals, quantile)
        if not np.isfinite(found):
            most = len(self.residuals) / (len(self.residuals) + 1)
            raise FieldError(
                f"{quantile:g}",
                where="memory_quantile",
                expected=f"at most {most:.4f}: there are {len(self.residuals)} residuals",
            )
        return found

    def draw(self, tasks: int, rng: np.random.Generator) -> FloatArray:
        """Draw factors of what tasks really hold on what is predicted, shape (T,)."""
        chosen = rng.choice(self.residuals, whole("tasks", tasks, minimum=0))
        return np.asarray(np.exp(chosen))


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    residuals: list[float]
    source: str
    sha256: str


@cache
def load_memory_spread() -> MemorySpread:
    """Return the packaged spread: fine-tuning runs on A100, each model predicted from the others.

    It is that of the parts in `predictors.memory_parts` with learned factors. Other formulae, such
    as `predictors.memory.held_bytes`, are taken to err as much.
    """
    content = (resources.files("predictors") / "memory_spread.json").read_bytes()
    found = msgspec.json.decode(content, type=_Stored)
    residuals = floats("residuals", found.residuals)
    return MemorySpread(residuals, found.source, found.sha256)
