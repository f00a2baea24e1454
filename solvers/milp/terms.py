"""The objective's terms as columns, rows and prices over starts by tick."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.instance import Instance
from solvers.milp.chains import Chains, Windows
from solvers.milp.constraints import Starts
from solvers.milp.program import NOTHING, Program, Step
from solvers.milp.rounding import Rounded
from solvers.milp.units import common_unit
from solvers.milp.weights import Loads, Weights, last_end


@dataclass
class Level:
    """One level: value in seconds = unit_s × (costs · columns) + constant_s.

    Parameters
    ----------
    costs : dict of int to float
        Price of a column in units.
    unit_s : float
        Seconds of a unit. When `whole`, every solution is worth a whole number of units.
    constant_s, least_s : float
        The rest of the value; a lower bound that needs no search.
    whole : bool
        Whether all prices are whole multiples of the unit.
    """

    unit_s: float
    constant_s: float
    least_s: float
    whole: bool
    costs: dict[int, float] = field(default_factory=dict)

    def charge(self, price_s: float, columns: IntArray) -> None:
        """Add a price in seconds to columns; `NOTHING` costs nothing."""
        units = price_s / self.unit_s
        price = float(round(units)) if self.whole else units
        for column in columns[columns != NOTHING].tolist():
            self.costs[column] = self.costs.get(column, 0.0) + price

    def vector(self, columns: int) -> FloatArray:
        """Return the prices in units, shape (columns,)."""
        costs = np.zeros(columns)
        costs[list(self.costs)] = list(self.costs.values())
        return costs


@dataclass(frozen=True)
class Frame:
    """All that terms are stated over."""

    program: Program
    instance: Instance
    data: Rounded
    chain: Chains
    window: Windows
    start: Starts
    work: Loads


Done = Callable[[IntArray], list[IntArray]]
"""Columns, of which one is 1 exactly if a task has ended by each of the ticks."""


def endings(frame: Frame) -> list[Done]:
    """Return for every task the columns that say when it has ended."""
    return [_ending(frame, i) for i in range(frame.instance.tasks)]


def _ending(frame: Frame, i: int) -> Done:
    def after(o: int) -> Done:
        takes = (frame.chain.length + frame.chain.tail)[:, o].tolist()
        pairs = [(steps[o], take) for steps, take in zip(frame.start.begun, takes, strict=True)]
        return lambda ticks: [step.at(ticks - take) for step, take in pairs]

    closing = [after(o) for o in frame.chain.closing(i)]
    if len(closing) == 1:
        return closing[0]
    ended = _step(frame.program, int(frame.window.done_early[i]), int(frame.window.done_late[i]))
    ticks = np.arange(ended.begin, ended.end)
    if ticks.size:
        for done in closing:
            _no_sooner(frame.program, ended.at(ticks), done(ticks))
    return lambda ticks: [ended.at(ticks)]


def _step(program: Program, begin: int, end: int) -> Step:
    return program.step(begin, end, program.one)


def _no_sooner(program: Program, left: IntArray, right: list[IntArray]) -> None:
    program.rows(0.0, inf, (-1.0, left), *((1.0, columns) for columns in right))


def state_level(frame: Frame, weight: Weights, done: list[Done]) -> Level:
    """Add the columns and rows of one level's terms."""
    window = frame.window
    unit = common_unit([c / frame.instance.tick_s for c in weight.coefficients()])
    level = Level(
        frame.instance.tick_s * (1.0 if unit is None else unit),
        weight.constant_s,
        weight.least_s(window.done_early),
        unit is not None,
    )
    for i, ended in enumerate(done):
        begin, end = int(window.done_early[i]), int(window.done_late[i])
        if weight.done[i] > 0:
            # The end in ticks: `end` less one tick for every tick at which the task is over.
            level.constant_s += float(weight.done[i]) * end
            for over in ended(np.arange(begin, end)):
                level.charge(-float(weight.done[i]), over)
        due = int(weight.due[i])
        if weight.late[i] > 0 and begin > due:
            level.constant_s += float(weight.late[i])
        elif weight.late[i] > 0 and end > due:
            late = np.array([frame.program.add()])
            columns = ended(np.array([due]))
            frame.program.rows(1.0, inf, (1.0, late), *((1.0, column) for column in columns))
            level.charge(float(weight.late[i]), late)
    if weight.makespan > 0:
        level.charge(weight.makespan, _makespan(frame, done))
    if weight.node_time > 0 or weight.idle > 0:
        spans = np.array([_span(frame, n, done) for n in range(frame.instance.cluster.nodes)])
        level.charge(weight.node_time, spans)
        if weight.idle > 0:
            level.charge(weight.idle, _idle(frame, spans))
    return level


def _loads(frame: Frame, n: int, s: int) -> tuple[IntArray, IntArray, IntArray]:
    """Operations open to a GPU, the columns that place them there, and the ticks they take."""
    chain, window = frame.chain, frame.window
    here = np.flatnonzero((chain.stage == s) & window.may[chain.task, n])
    return here, frame.start.on[chain.task[here], n], (chain.length + chain.tail)[n, here]


def _makespan(frame: Frame, done: list[Done]) -> IntArray:
    """Column of the last end: no earlier than any task's, nor than any GPU has done its work.

    The rows by GPU say nothing new about whole solutions; they lift the bound of fractional ones.
    """
    program, window, chain = frame.program, frame.window, frame.chain
    begin, end = last_end(window.done_early), last_end(window.done_late)
    over = _step(program, begin, end)
    for i, ended in enumerate(done):
        ticks = np.arange(begin, min(end, int(window.done_late[i])))
        if ticks.size:
            _no_sooner(program, over.at(ticks), ended(ticks))
    last = np.array([program.add(lower=float(begin), upper=float(end))])
    program.row(float(end), float(end), (1.0, last), (1.0, over.columns()))
    for n in range(frame.instance.cluster.nodes):
        rest = _rest(chain, n)
        for s in range(frame.instance.cluster.stages):
            here, on, takes = _loads(frame, n, s)
            early = window.early[n, here]
            for first in np.unique(early):
                these = early >= first
                # A GPU that runs none of them only leaves the last end's own lower bound.
                least = min(begin, int(first + rest[here][these].min()))
                program.row(
                    float(least), inf, (1.0, last), (-takes[these].astype(float), on[these])
                )
    return last


def _rest(chain: Chains, n: int) -> IntArray:
    """Ticks from the end of an operation and its update to that of the task's last, shape (O,)."""
    rest = np.zeros(len(chain.task), dtype=np.int64)
    for first, end in chain.spans:
        behind = np.int64(0)
        for o in reversed(range(first, end)):
            rest[o] = max(0, behind - chain.tail[n, o])
            behind = max(behind, chain.tail[n, o]) + chain.length[n, o] + chain.gap[n, o]
    return rest


def _span(frame: Frame, n: int, done: list[Done]) -> int:
    """Column of the ticks between a node's first start and last end, 0 for an unused node."""
    program, window = frame.program, frame.window
    tasks = np.flatnonzero(window.may[:, n])
    firsts = [frame.chain.spans[i][0] for i in tasks]
    begin = int(min((window.early[n, o] for o in firsts), default=0))
    end = int(max((window.done_late[i] for i in tasks), default=0))
    span = program.add(upper=float(max(0, end - begin)))
    if not tasks.size:
        return span
    ticks = np.arange(begin, end)
    used = np.array([program.add()])
    opened = program.add(end - begin) + np.arange(end - begin)
    unfinished = program.add(end - begin) + np.arange(end - begin)
    for i, first in zip(tasks.tolist(), firsts, strict=True):
        on = np.full(end - begin, frame.start.on[i, n])
        _no_sooner(program, frame.start.begun[n][first].at(ticks), [opened])
        closing = [
            frame.start.begun[n][o].at(
                ticks - int(frame.chain.length[n, o] + frame.chain.tail[n, o])
            )
            for o in frame.chain.closing(i)
        ]
        for ended in closing:
            program.rows(0.0, inf, (1.0, unfinished), (-1.0, on), (1.0, ended))
    # Whenever a node is used, it is opened or unfinished at every tick, and both while in use.
    program.rows(0.0, inf, (1.0, opened), (1.0, unfinished), (-1.0, np.full(len(ticks), used[0])))
    program.row(-inf, 0.0, (1.0, used), (-1.0, frame.start.on[tasks, n]))
    program.row(
        0.0,
        0.0,
        (-1.0, np.array([span])),
        (1.0, opened),
        (1.0, unfinished),
        (-float(end - begin), used),
    )
    for s in range(frame.instance.cluster.stages):
        _, column, takes = _loads(frame, n, s)
        program.row(0.0, inf, (1.0, np.array([span])), (-takes.astype(float), column))
    return span


def _idle(frame: Frame, spans: IntArray) -> IntArray:
    """Column of the GPU ticks without work inside spans."""
    stages, busy = frame.work.stages, frame.work.by_node
    idle = np.array([frame.program.add(upper=float(stages * len(spans) * frame.data.horizon))])
    frame.program.row(
        0.0,
        inf,
        (1.0, idle),
        (-float(stages), spans),
        (busy.reshape(-1).astype(float), frame.start.on.reshape(-1)),
    )
    return idle
