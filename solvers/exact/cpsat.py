"""`cpsat`: proven optima and bounds with OR-Tools CP-SAT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.result import Result, Value
from lemix_opt.schedule import Schedule
from solvers.exact.parts import Parts, chosen
from solvers.exact.readout import Key
from solvers.exact.run import Run


@dataclass(frozen=True)
class CpSat:
    """Exact solver.

    On the time grid one model gives schedule and bound. Off it the schedule comes from a model
    rounded to the safe side and the bound from a second one rounded the other way. Ctrl-C ends the
    search and returns the best result so far.

    Parameters
    ----------
    workers : int, default 1
        Threads of CP-SAT.
    parts : Parts
        Switches of the model.
    windows : mapping of (task, phase, stage) to (int, int), optional
        First and last start, in ticks, of operations in all schedules that are at least as good as
        the `initial` one (`solvers.bounds.windows`); used on the time grid.
    """

    workers: int = 1
    parts: Parts = field(default_factory=Parts)
    windows: Mapping[Key, tuple[int, int]] = field(default_factory=dict)

    def solve(
        self,
        instance: Instance,
        objective: Objective,
        *,
        time_limit_s: float = 60.0,
        deterministic_limit: float | None = None,
        seed: int = 0,
        initial: Schedule | None = None,
        on_solution: Callable[[Schedule, Value], None] | None = None,
    ) -> Result:
        """Solve an instance; never worse than `initial`, which must be feasible."""
        run = Run(
            instance,
            objective,
            self.parts,
            self.workers,
            time_limit_s,
            deterministic_limit,
            seed,
            on_solution,
            self.windows,
        )
        return run.solve(initial)


def create(
    workers: int = 1, parts: Parts | Mapping[str, bool] | None = None, **switches: bool
) -> CpSat:
    """Build the solver, as the registry does.

    Parameters
    ----------
    workers : int, default 1
        Threads of CP-SAT.
    parts : Parts or mapping of str to bool, optional
        All switches of the model, or those that differ from the defaults.
    **switches
        Single switches by name.

    Raises
    ------
    UnknownNameError
        For a name that is neither, naming the nearest one.
    """
    return CpSat(workers, chosen(parts, switches))
