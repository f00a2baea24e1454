"""Search over plans: where it starts, and the annealing of one plan."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.engine import simulate
from lemix_opt.engine.jit import called
from lemix_opt.errors import LemixError
from lemix_opt.interrupt import stop_if_interrupted
from lemix_opt.schedule import Schedule
from solvers.exact.data import TickData, tick_data
from solvers.exact.readout import schedule_from
from solvers.incumbent import Incumbent
from solvers.registry import POLICIES
from solvers.search.beam import grown
from solvers.search.decode import Board, Work, board_of
from solvers.search.moves import DRAWS, anneal
from solvers.search.plan import (
    Plan,
    by_release,
    decoded,
    in_turn,
    plan_of,
    starts_by_key,
    work_of,
)
from solvers.search.snapshots import snapshots_of

STEPS, WORK = 1024, 2 * 10**5
"""Steps between two looks at the clock, fewer of them where plans are long."""
START_POLICIES = ("budget", "shortest-response", "lemix")


class Search:
    """Plans for one instance, decoded and improved; schedules go to an incumbent.

    Parameters
    ----------
    best : Incumbent
        What is improved.
    halt : threading.Event, optional
        Ends annealing when it is set.
    """

    def __init__(self, best: Incumbent, halt: threading.Event | None = None) -> None:
        self.best, self.instance = best, best.instance
        self.halt = threading.Event() if halt is None else halt
        self.data: TickData = tick_data(self.instance, bound=False)
        self.work: Work = work_of(self.instance, self.data, best.objective)
        self.board: Board = board_of(self.work)
        self.allowed = np.all(self.data.held <= self.data.room[:, None, :], axis=2)
        self.plan: Plan | None = None
        self.cost = math.inf

    @property
    def possible(self) -> bool:
        """Whether every task fits on some node."""
        return bool(np.all(np.any(self.allowed, axis=0)))

    def begin(self) -> None:
        """Start from the best of the incumbent, policies, and beams over orders of release."""
        if not self.possible:
            return
        self.follow_best()
        for name in START_POLICIES:
            try:
                schedule = simulate(self.instance, POLICIES.create(name))
            except LemixError:
                continue
            if schedule.complete:
                self.try_plan(plan_of(self.instance, schedule))
        for sequence in by_release(self.instance):
            plan = grown(self.work, self.allowed, sequence)
            self.try_plan(in_turn(self.instance, self.allowed, sequence) if plan is None else plan)

    def follow_best(self) -> None:
        """Take over the incumbent where somebody else has improved it."""
        if self.best.schedule is not None:
            self.try_plan(plan_of(self.instance, self.best.schedule))

    def try_plan(self, plan: Plan) -> bool:
        """Decode a plan; keep it if it is no worse, and return whether it is better."""
        if not np.all(self.allowed[plan.place, np.arange(self.instance.tasks)]):
            return False
        cost, before = decoded(self.work, self.board, plan), self.cost
        if cost <= before and cost < math.inf:
            self.plan, self.cost = plan, cost
            self.best.offer(self.read())
        return cost < before

    def starts(self) -> FloatArray:
        """Return when the tasks of the plan first start, in ticks."""
        assert self.plan is not None
        decoded(self.work, self.board, self.plan)
        return self.board.start[:, 0].astype(np.float64)

    @property
    def operations(self) -> int:
        """Forwards and backwards of all tasks."""
        tasks = self.instance.tasks + int(self.work.training.sum())
        return tasks * self.instance.cluster.stages

    def read(self) -> Schedule:
        """Return the schedule on the board."""
        plan, everyone = self.plan, np.arange(self.instance.tasks)
        assert plan is not None
        starts = starts_by_key(self.instance, self.board.start, everyone)
        return schedule_from(self.instance, plan.place, starts)

    def cool(
        self,
        rng: np.random.Generator,
        *,
        until_s: float = math.inf,
        plans: float = math.inf,
        hot: float,
        cold: float,
    ) -> None:
        """Anneal from the best plan until a time of the run or for so many decoded plans."""
        if self.plan is None or self.instance.tasks == 0:
            return
        self.follow_best()
        begin_s, begin_cost = self.best.elapsed_s, self.cost
        falls = min(cold * self.instance.tasks / hot, 1.0)
        state = Steps(self.plan, self.cost, self.work)
        done, part = 0, 0.0
        while part < 1.0 and not self.best.proven and not self.halt.is_set():
            stop_if_interrupted()
            heat = hot * begin_cost / self.instance.tasks * falls**part
            done += state.take(self, rng, heat)
            if state.best_cost < self.cost:
                self.try_plan(Plan(state.best_order.copy(), state.best_place.copy()))
            spent_s = self.best.elapsed_s - begin_s
            part = max(spent_s / max(until_s - begin_s, 1e-9), done / plans)


class Steps:
    """Steps from a plan, and what the compiled ones change."""

    def __init__(self, plan: Plan, cost: float, work: Work) -> None:
        size = 2 * work.forward.shape[2] * work.training.size
        self.snapshots = snapshots_of(work)
        self.order: IntArray = np.stack([plan.order, plan.order])
        self.where: IntArray = np.zeros((2, size), dtype=np.int64)
        self.where[:, plan.order] = np.arange(plan.order.size)
        self.place = plan.place.copy()
        self.best_order, self.best_place = plan.order.copy(), plan.place.copy()
        self.costs: FloatArray = np.array([cost, cost])
        self.each = max(8, min(STEPS, WORK // max(plan.order.size, 1)))

    @property
    def plan(self) -> Plan:
        """The present plan."""
        return Plan(self.order[0].copy(), self.place.copy())

    @property
    def cost(self) -> float:
        """What it costs, in ticks."""
        return float(self.costs[0])

    @property
    def best_cost(self) -> float:
        """What the best plan so far costs, in ticks."""
        return float(self.costs[1])

    def take(self, search: Search, rng: np.random.Generator, heat: float) -> int:
        """Take some steps at one temperature; return how many plans were decoded."""
        arguments: tuple[Any, ...] = (
            *(search.work, search.board, self.snapshots, search.allowed),
            *(self.order, self.place, self.where),
            *(self.best_order, self.best_place, rng.random((self.each, DRAWS)), self.costs),
            heat,
        )
        # Every step counts a little, so that a search without legal moves ends as well.
        return int(called(anneal, *arguments)) + 1
