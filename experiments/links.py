"""Links between the stages of a study, and what its tables say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray
from lemix_opt.errors import unknown
from lemix_opt.workload import Workload

NO_HOP = "none"
"""Name of a link that takes no time."""
HOPS = "a100-send-recv"
"""Packaged calibration behind the hops."""


@dataclass(frozen=True)
class Links:
    """The link between each two neighbouring stages.

    Parameters
    ----------
    named : tuple of str, shape (S-1,)
        Kinds of link; empty without hops.
    hop_model : dict of str to fitted model, or None
        Their models, as `predictors.estimate_costs` takes them.
    """

    named: tuple[str, ...]
    hop_model: dict[str, Any] | None

    def hop_s(self, work: Workload, shape: Any) -> FloatArray | float:
        """Return the seconds of every hop before they are put on a grid, shape (T, S-1)."""
        if self.hop_model is None:
            return 0.0
        from predictors.estimate import stage_hops

        return stage_hops(work, shape, len(self.named) + 1, self.hop_model, self.named)

    def describe(self, work: Workload, shape: Any, tick_s: float) -> str:
        """Say which links there are, by which formula, and what lies beyond its measurements."""
        if self.hop_model is None:
            return NO_HOP
        from predictors.hops import load_hop_calibrations

        known = load_hop_calibrations(HOPS)
        used = [name for name in known if name in self.named]
        sent = 2 * shape.hidden * work.batch * work.prompt_tokens
        most = min((known[name].max_bytes for name in used), default=0)
        return (
            f"{', '.join(self.named) or 'one stage'}; "
            + "".join(f"{name}: {known[name]}; " for name in used)
            + f"hidden state at 2 bytes a number, {int(np.sum(sent > most))} tasks beyond the "
            f"{most} bytes measured; actual as predicted, but not rounded up to {tick_s:g} s"
        )


def links_of(hop: str, stages: int) -> Links:
    """Read the links of a study.

    Parameters
    ----------
    hop : str
        ``none``, one kind of link for all, or one for each two neighbours with commas.
    stages : int
        Pipeline stages S.

    Raises
    ------
    UnknownNameError
        For a kind of link that was not measured.
    """
    if hop == NO_HOP:
        return Links((), None)
    from predictors.hops import LINKS, load_hops

    named = hop.split(",")
    for name in named:
        if name not in LINKS:
            raise unknown("link", name, (NO_HOP, *LINKS))
    return Links(tuple(named * (stages - 1) if len(named) == 1 else named), load_hops(HOPS))
