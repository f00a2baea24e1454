"""One run of `cpsat`: a first schedule, then level after level of the objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from lemix_opt.errors import UnsupportedError
from lemix_opt.grid import ticks_up
from lemix_opt.instance import Instance
from lemix_opt.interrupt import INTERRUPTED, stop_if_interrupted
from lemix_opt.objective import Objective
from lemix_opt.result import Result
from lemix_opt.schedule import Schedule
from solvers.exact import assignment
from solvers.exact.board import Board
from solvers.exact.chains import chains
from solvers.exact.data import TickData, tick_data
from solvers.exact.heads import closed_loop
from solvers.exact.hints import hint
from solvers.exact.limits import Limits, OutOfTimeError
from solvers.exact.model import build
from solvers.exact.order_tree import compile_tree
from solvers.exact.parts import Parts
from solvers.exact.readout import Key, schedule_from, starts_of
from solvers.exact.search import search
from solvers.exact.special import is_flow_shop, solve_special
from solvers.exact.start import first_boards, insert
from solvers.exact.terms import levels
from solvers.exact.variables import Model
from solvers.incumbent import Incumbent, OnSolution

_TRAINING_SHARE = 0.3
"""Of the limits, for the training tasks alone."""

_TRAINING_LIMIT_S = 300.0

_PROVEN = (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.UNKNOWN)


class Run:
    """State of one run; parameters as in `CpSat` and its `solve`."""

    def __init__(
        self,
        instance: Instance,
        objective: Objective,
        parts: Parts,
        workers: int,
        time_limit_s: float,
        deterministic_limit: float | None,
        seed: int,
        on_solution: OnSolution | None,
        windows: Mapping[Key, tuple[int, int]] | None = None,
    ) -> None:
        self.windows = windows or {}
        if parts.tree and is_flow_shop(instance, objective):
            compile_tree()
        self.limits = Limits(time_limit_s, deterministic_limit)
        self.instance, self.objective, self.parts = instance, objective, parts
        self.workers, self.seed = workers, seed
        self.best = Incumbent(instance, objective, on_solution)
        self.note = ""
        self.schedule_proven = self.impossible = self.interrupted = False
        self.floor: float | None = None

    def solve(self, initial: Schedule | None) -> Result:
        """Search within the limits; what is known by then is the result."""
        if initial is not None:
            self.best.offer(initial)
        data = tick_data(self.instance, bound=False)
        try:
            self._special_case(data)
            if self.parts.start and not self.best.proven:
                self._start(data)
            if self.parts.training:
                self._train_first(data)
            if self.interrupted:
                raise KeyboardInterrupt
            if not self.best.proven:
                self._descend(data, bound=False, share=1.0 if data.exact else 0.5)
            if not data.exact and not self.interrupted:
                stop_if_interrupted()
                self._descend(tick_data(self.instance, bound=True), bound=True, share=1.0)
        except OutOfTimeError:
            self.note = "the time limit was reached before the search began"
        except KeyboardInterrupt:
            self.interrupted = True
        if self.interrupted:
            self.note = INTERRUPTED
        self.best.raise_bound(self.floor)
        parameters = {
            "workers": self.workers,
            "time_limit_s": self.limits.time_limit_s,
            "parts": asdict(self.parts),
        }
        return self.best.result(
            "cpsat",
            self.seed,
            parameters,
            self.note,
            impossible=self.impossible,
            rounding=not data.exact and self.schedule_proven,
        )

    def _special_case(self, data: TickData) -> None:
        found = solve_special(self.instance, self.objective, data, self.parts, self.limits)
        if found is None:
            return
        if found.schedule is not None:
            self.best.offer(found.schedule)
        if found.lower_bound is not None:
            self.floor = self.objective.makespan * found.lower_bound * self.instance.tick_s
            self.best.raise_bound(self.floor)
        if found.interrupted:
            raise KeyboardInterrupt

    def _start(self, data: TickData) -> None:
        chain = chains(self.instance, data)
        loop = closed_loop(self.instance, data, chain)
        for board in first_boards(self.instance, data, chain, loop, self.limits):
            self.best.offer(_schedule(self.instance, board))

    def _train_first(self, data: TickData) -> None:
        """Solve the training tasks alone: a bound for all, and a schedule to insert requests into.

        The closed loop and large memory make them the hard part, and requests can only add to it.
        """
        training = self.instance.workload.is_training
        trains = np.flatnonzero(training)
        if self.objective.levels != (("makespan",),) or not 1 < trains.size < self.instance.tasks:
            return
        own = Run(
            self.instance.window(trains),
            self.objective,
            replace(self.parts, training=False),
            self.workers,
            min(_TRAINING_SHARE * self.limits.left_s(), _TRAINING_LIMIT_S),
            self.limits.part(_TRAINING_SHARE),
            self.seed,
            None,
        )
        found = own.solve(None)
        self.interrupted = own.interrupted
        self.limits.spent += own.limits.spent
        self.floor = found.lower_bound if isinstance(found.lower_bound, float) else None
        if found.schedule is not None and not self.instance.fifo:
            board = Board(self.instance, data, chains(self.instance, data))
            for local, i in enumerate(trains.tolist()):
                node = int(found.schedule.node[local])
                board.place(i, node, starts_of(found.schedule, self.instance.tick_s, local))
            requests = np.argsort(data.release, kind="stable").tolist()
            insert(self.limits, board, [i for i in requests if not training[i]])
            self.best.offer(_schedule(self.instance, board))

    def _descend(self, data: TickData, *, bound: bool, share: float) -> None:
        """Solve level after level and keep the proven bounds in seconds."""
        horizon = self._horizon(data, bound)
        placed = self.parts.assignment and assignment.applies(self.instance, self.objective)
        state = assignment.build if placed else build
        model = state(self.instance, data, self.parts, horizon=horizon, check=self.limits.check)
        if data.exact:
            for key, (first, last) in self.windows.items():
                model.cp.add_linear_constraint(model.start[key], first, last)
        stated = levels(self.instance, model, self.objective, self.parts, bound=bound)
        if self.floor is not None:
            unit = self.objective.makespan * self.instance.tick_s
            model.cp.add(model.makespan >= math.floor(self.floor / unit + 1e-6))
        if self.best.schedule is not None:
            hint(model, self.instance, data, self.parts, self.best.schedule)
        provable = data.exact or bound
        for depth, level in enumerate(stated):
            if provable:
                self.best.raise_bound(level.least, depth)
            if self.limits.over(share):
                self.note = "the time limit was reached"
                return
            model.cp.minimize(level.expression)
            found = search(
                model.cp,
                self.limits,
                share,
                # Measured: two workers prove these two special cases several times later than one.
                workers=1 if placed or model.ahead else self.workers,
                linear=not model.ahead,
                seed=self.seed,
                hear=None if bound else lambda value: self._hear(data, model, value),
            )
            self.interrupted = found.interrupted
            if found.status == cp_model.INFEASIBLE:
                self.impossible = True
                self.note = "no schedule exists"
                return
            if found.status == cp_model.MODEL_INVALID:
                raise UnsupportedError(
                    "the model's numbers do not fit into 64 bits",
                    where="tick_s",
                    expected="a longer tick, or smaller weights",
                )
            if found.status in _PROVEN and provable:
                self.best.raise_bound(level.seconds(found.bound), depth)
            if found.status != cp_model.OPTIMAL:
                self.note = "a limit was reached before the proof"
                return
            if bound or not level.whole:
                # A relaxed optimum may cut off the true one, so lower levels get no bound here.
                if len(stated) > 1:
                    self.note = "lower levels have no bound off the grid"
                return
            model.cp.add(level.expression <= round(found.value))
        self.schedule_proven = self.schedule_proven or not bound

    def _horizon(self, data: TickData, bound: bool) -> int | None:
        """Tick by which everything ends in some optimal schedule, from the best one known."""
        if self.objective.levels[0] != ("makespan",) or self.best.schedule is None:
            return None
        if not (data.exact or bound):
            # The best schedule need not be one of this model, which rounds up.
            return None
        end_s = np.max(self.best.schedule.operations.end_s, initial=0.0)
        return int(ticks_up(end_s, self.instance.tick_s))

    def _hear(self, data: TickData, model: Model, value: Callable[[Any], int]) -> None:
        node, starts = model.read(value)
        if self.instance.tasks and not starts:
            starts = assignment.starts(self.instance, data, node)
        self.best.offer(schedule_from(self.instance, node, starts))


def _schedule(instance: Instance, board: Board) -> Schedule:
    node = np.array([board.node[i] for i in range(instance.tasks)], dtype=np.int64)
    return schedule_from(instance, node, board.starts)
