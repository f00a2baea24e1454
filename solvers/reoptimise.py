"""`reoptimise`: exact plans that see a task only when it arrives.

At every release the tasks known by then are planned anew, to the proof where time allows, as if
none came later; what has started stays as it is. Its distance from the clairvoyant optimum is what
not knowing the future costs such plans. They are no best online rule: one that leaves room for what
may come can beat them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from ortools.sat.python import cp_model

from lemix_opt.checks import IntArray, whole
from lemix_opt.instance import Instance
from lemix_opt.interrupt import INTERRUPTED
from lemix_opt.objective import Objective
from lemix_opt.result import Result
from lemix_opt.schedule import Schedule
from solvers.exact.data import TickData, tick_data
from solvers.exact.limits import Limits, OutOfTimeError
from solvers.exact.model import build
from solvers.exact.parts import Parts
from solvers.exact.readout import Key, schedule_from
from solvers.exact.rest import Rest
from solvers.exact.search import search
from solvers.exact.terms import levels
from solvers.incumbent import Incumbent, OnSolution

_PARTS = Parts(symmetry=False, assignment=False)
"""Nodes are told apart by what has started on them, and starts are needed."""


@dataclass(frozen=True)
class Reoptimise:
    """Online exact solver, for instances that `cpsat` proves.

    It proves no bound. A deterministic limit is split evenly over the arrivals, as is the time
    limit; `explanation` says how many of the plans were proven.

    Parameters
    ----------
    workers : int, default 1
        Threads of CP-SAT.
    """

    workers: int = 1

    def __post_init__(self) -> None:
        whole("workers", self.workers, minimum=1)

    def solve(
        self,
        instance: Instance,
        objective: Objective,
        *,
        time_limit_s: float = 60.0,
        deterministic_limit: float | None = None,
        seed: int = 0,
        initial: Schedule | None = None,
        on_solution: OnSolution | None = None,
    ) -> Result:
        """Plan at every arrival; `initial` is returned where it is better than what came of that.

        An instance off the time grid is planned with times rounded up.
        """
        best = Incumbent(instance, objective, on_solution)
        if initial is not None:
            best.offer(initial)
        data = tick_data(instance, bound=False)
        moments = np.unique(data.release).tolist()
        plan = _Plan(np.full(instance.tasks, -1, dtype=np.int64), {})
        proven, note = 0, ""
        until = time.perf_counter() + time_limit_s
        try:
            for k, now in enumerate(moments):
                left_s = (until - time.perf_counter()) / (len(moments) - k)
                share = None if deterministic_limit is None else deterministic_limit / len(moments)
                known = np.flatnonzero(data.release <= now)
                stage = _Moment(instance, data, objective, known, now, plan)
                limits = Limits(left_s if share is None else np.inf, share)
                found, closed = stage.plan_anew(limits, self.workers, seed)
                if found is None:
                    note = f"no plan of the tasks known at {now} ticks was found in time"
                    break
                plan, proven = found, proven + closed
            else:
                best.offer(schedule_from(instance, plan.node, plan.start))
        except OutOfTimeError:
            note = "the time limit was reached"
        except KeyboardInterrupt:
            note = INTERRUPTED
        parameters = {"workers": self.workers, "time_limit_s": time_limit_s}
        note = (
            note or f"{proven} of {len(moments)} plans are proven; sees no task before its release"
        )
        return best.result("reoptimise", seed, parameters, note)


@dataclass(frozen=True)
class _Plan:
    """Nodes (−1 where not planned yet) and starts in ticks of the tasks known so far."""

    node: IntArray
    start: dict[Key, int]


class _Moment:
    """What is known at one moment, and what has started before it."""

    def __init__(
        self,
        instance: Instance,
        data: TickData,
        objective: Objective,
        known: IntArray,
        now: int,
        plan: _Plan,
    ) -> None:
        self.known, self.now, self.plan, self.objective = known, now, plan, objective
        self.own = instance.window(known)
        self.data = data.take(known)
        place = {int(i): k for k, i in enumerate(known)}
        self.start = {(place[i], p, s): begin for (i, p, s), begin in plan.start.items()}
        self.begun = {key: begin for key, begin in self.start.items() if begin < now}
        self.node = {k: int(plan.node[known[k]]) for k, _, _ in self.begun}

    def plan_anew(self, limits: Limits, workers: int, seed: int) -> tuple[_Plan | None, bool]:
        """Return the best plan found, and whether it is proven to be the best."""
        rest = Rest(node=self.node)
        model = build(self.own, self.data, _PARTS, horizon=None, check=limits.check, rest=rest)
        for key, start in model.start.items():
            begun = self.begun.get(key)
            if begun is None:
                model.cp.add(start >= self.now)
            else:
                model.cp.add(start == begun)
            if key in self.start:
                model.cp.add_hint(start, self.start[key])
        heard: list[tuple[IntArray, dict[Key, int]]] = []
        proven = True
        for level in levels(self.own, model, self.objective, _PARTS, bound=False):
            model.cp.minimize(level.expression)
            found = search(
                model.cp,
                limits,
                1.0,
                workers=workers,
                seed=seed,
                hear=lambda value: heard.append(model.read(value)),
            )
            if found.interrupted:
                raise KeyboardInterrupt
            proven = found.status == cp_model.OPTIMAL
            if not proven:
                break
            model.cp.add(level.expression <= round(found.value))
        if not heard:
            return None, False
        node, start = heard[-1]
        nodes = self.plan.node.copy()
        nodes[self.known] = node
        known = self.known.tolist()
        return _Plan(nodes, {(known[k], p, s): at for (k, p, s), at in start.items()}), proven
