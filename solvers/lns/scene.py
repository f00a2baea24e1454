"""A state with all that neighbourhoods and windows look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import FloatArray
from lemix_opt.instance import Instance
from solvers.lns.state import State, View
from solvers.search.decode import Work


@dataclass(frozen=True)
class Scene:
    """A state of an instance.

    Parameters
    ----------
    instance, work, state, view
        The problem, its ticks and weights, and what runs where and when.
    """

    instance: Instance
    work: Work
    state: State
    view: View

    @property
    def middle(self) -> FloatArray:
        """Tick half-way between first start and last end of every task."""
        return np.asarray((self.view.first + self.view.last) / 2)

    @property
    def excess(self) -> FloatArray:
        """Cost of every task's response beyond its least, in ticks times weight."""
        work, last = self.work, self.view.last
        cost = work.weight * (last - work.release) + work.penalty * (last > work.due)
        least = work.weight * work.after[:, :, 0].min(axis=0)
        return np.asarray(np.maximum(cost - least, 0.0))
