"""What a solver returns: a schedule, how good it is and how that is known."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from lemix_opt.checks import choice
from lemix_opt.interrupt import INTERRUPTED
from lemix_opt.schedule import Schedule

STATUSES = ("optimal", "feasible", "infeasible", "unknown", "incomplete", "invalid")
Value = float | tuple[float, ...]


def versions() -> dict[str, str]:
    """Versions of Python, this distribution and the libraries results depend on."""
    # Costs a tenth of the import time of this package, and few callers need it.
    import importlib.metadata

    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("lemix-opt", "numpy", "scipy", "scikit-learn", "ortools", "networkx", "polars"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def relative_gap(objective: float, lower_bound: float) -> float:
    """(objective − bound) / |objective|, 0 when both are equal."""
    if objective == lower_bound:
        return 0.0
    return (objective - lower_bound) / max(abs(objective), 1e-12)


@dataclass(frozen=True)
class Result:
    """Outcome of `solve`.

    Parameters
    ----------
    status : {"optimal", "feasible", "infeasible", "unknown", "incomplete", "invalid"}
        ``optimal`` means that objective and bound agree within
        `lemix_opt.resolution.PROOF_TOLERANCE`; ``feasible`` that `validate` accepts the schedule.
        Policies, whose schedules are reported as they are, also return ``incomplete`` if a task is
        not done and ``invalid`` if a rule is broken; the explanation names the first cause.
    schedule : Schedule, optional
        Best schedule found.
    objective : float or tuple of float, optional
        Its value in seconds; one entry per level for lexicographic objectives.
    lower_bound : float or tuple of float, optional
        Proven bound in seconds; None when nothing is known.
    gap : float, optional
        Relative gap, of the first level that is not proven. Time counts from the first release
        here, so that a makespan at a late hour looks no closer to its bound than it is.
    trajectory : tuple of (seconds, upper, lower)
        Improvements over the run; None stands for unknown.
    runtime_s : float
        Wall seconds, model building included; of a policy those of its simulation.
    solver : str
        Name in the registry.
    seed : int
        Seed of the run.
    parameters : dict
        What the solver was called with.
    explanation : str
        Why the status is what it is, where that is not plain.
    rounding_gap : float, optional
        Part of the gap in seconds that is due to times off the grid; None on the grid.
    level_status : tuple of str
        Status per level of a lexicographic objective.
    versions : dict
        Versions the result was made with.
    """

    status: str
    schedule: Schedule | None
    objective: Value | None
    lower_bound: Value | None
    gap: float | None
    trajectory: tuple[tuple[float, float | None, float | None], ...] = ()
    runtime_s: float = 0.0
    solver: str = ""
    seed: int = 0
    parameters: dict[str, Any] = field(default_factory=dict)
    explanation: str = ""
    rounding_gap: float | None = None
    level_status: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=versions)

    def __post_init__(self) -> None:
        choice("status", self.status, STATUSES)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the run, so that this is only the best so far."""
        return self.explanation.rpartition("; ")[2] == INTERRUPTED

    def primal_integral_s(self, reference: float | None = None) -> float:
        """Return how long the run was away from a value, weighed by how far (Berthold 2013).

        Parameters
        ----------
        reference : float, optional
            The value aimed at in seconds, such as the best known; the run's own when omitted.

        Returns
        -------
        float
            Seconds; the distance |upper − reference| / max(|upper|, |reference|) is 1 until the
            first schedule. Weighted objectives only; NaN where no value is known.
        """
        if reference is None:
            reference = self.objective if isinstance(self.objective, float) else None
        if reference is None:
            return float("nan")
        total, away, since = 0.0, 1.0, 0.0
        for moment, upper, _ in self.trajectory:
            if upper is None:
                continue
            total += away * (moment - since)
            largest = max(abs(upper), abs(reference))
            away, since = abs(upper - reference) / largest if largest else 0.0, moment
        return total + away * max(self.runtime_s - since, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; the schedule as lists of columns."""
        operations = self.schedule.operations if self.schedule is not None else None
        plain: dict[str, Any] = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in {"schedule", "trajectory"}
        }
        plain["trajectory"] = [list(point) for point in self.trajectory]
        plain["schedule"] = None
        if self.schedule is not None and operations is not None:
            plain["schedule"] = {
                "node": self.schedule.node.tolist(),
                "end_state": self.schedule.end_state.tolist(),
                "release_s": self.schedule.release_s.tolist(),
                "out_of_memory": [list(e) for e in self.schedule.out_of_memory],
                "gave_way": [list(pair) for pair in self.schedule.gave_way],
                "operations": {
                    name: getattr(operations, name).tolist()
                    for name in operations.__dataclass_fields__
                },
            }
        return plain

    def __str__(self) -> str:
        def show(value: Value | None, unit: str = " s") -> str:
            if value is None:
                return "unknown"
            if isinstance(value, tuple):
                return "(" + ", ".join(f"{v:.10g}" for v in value) + ")" + unit
            return f"{value:.10g}{unit}"

        gap = "unknown" if self.gap is None else f"{100 * self.gap:.4g} %"
        rows = [
            ("solver", self.solver),
            ("status", self.status),
            ("objective", show(self.objective)),
            ("lower bound", show(self.lower_bound)),
            ("gap", gap),
            ("runtime", f"{self.runtime_s:.3f} s"),
        ]
        if self.rounding_gap is not None:
            rows.append(("rounding gap", f"{self.rounding_gap:.6g} s"))
        if self.explanation:
            rows.append(("note", self.explanation))
        return "\n".join(f"{name:12s} {value}" for name, value in rows)
