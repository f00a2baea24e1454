"""The rules of section 2 of an instance as rows over starts by tick."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from lemix_opt.checks import IntArray
from lemix_opt.instance import Instance
from lemix_opt.schedule import FORWARD
from solvers.milp.chains import Chains, Windows
from solvers.milp.program import NEVER, NOTHING, Program, Step
from solvers.milp.rounding import Rounded


@dataclass(frozen=True)
class Starts:
    """Columns that say where and when operations start.

    Parameters
    ----------
    on : ndarray of int, shape (T, N)
        Column of "the task runs on the node".
    begun : tuple of tuple of Step
        "The operation has started on the node by this tick", by node and operation. Its last
        value is the task's `on`.
    """

    on: IntArray
    begun: tuple[tuple[Step, ...], ...]

    def read(self, chain: Chains, values: IntArray) -> tuple[IntArray, IntArray]:
        """Return node (T,) and start (O,) in ticks, from a solution's columns."""
        node = np.where(self.on == NOTHING, 0, values[self.on]).argmax(axis=1)
        start = np.zeros(len(chain.task), dtype=np.int64)
        for o, task in enumerate(chain.task.tolist()):
            step = self.begun[node[task]][o]
            start[o] = step.end - values[step.columns()].sum()
        return node, start


def starts(program: Program, chain: Chains, window: Windows) -> Starts:
    """Add the columns of every start."""
    on = np.full(window.may.shape, NOTHING)
    on[window.may] = program.add(int(window.may.sum())) + np.arange(int(window.may.sum()))
    begun = []
    for n in range(window.may.shape[1]):
        steps = []
        for o, i in enumerate(chain.task.tolist()):
            step = NEVER
            if window.may[i, n]:
                step = program.step(int(window.early[n, o]), int(window.late[n, o]), int(on[i, n]))
            steps.append(step)
        begun.append(tuple(steps))
    return Starts(on, tuple(begun))


def state_rules(
    program: Program,
    instance: Instance,
    data: Rounded,
    chain: Chains,
    window: Windows,
    start: Starts,
) -> None:
    """State placement, chains, releases, GPUs, memory and the FIFO option."""
    if instance.tasks:
        program.rows(1.0, 1.0, *((1.0, column) for column in start.on.T))
    for n, steps in enumerate(start.begun):
        for step in steps:
            _once_and_for_all(program, step)
        for first, end in chain.spans:
            for o in range(first + 1, end):
                wait = int(chain.length[n, o - 1] + chain.gap[n, o])
                _after(program, steps[o], steps[o - 1], wait)
        for s in range(instance.cluster.stages):
            _gpu(program, chain, steps, n, s)
            _memory(program, data, chain, steps, n, s)
    _releases(program, chain, window, start)
    if instance.fifo:
        _one_order(program, instance, chain, window, start)


def _once_and_for_all(program: Program, step: Step) -> None:
    ticks = np.arange(step.begin, step.end)
    if ticks.size:
        program.rows(0.0, inf, (1.0, step.at(ticks + 1)), (-1.0, step.at(ticks)))


def _after(program: Program, step: Step, before: Step, wait: int) -> None:
    """Let an operation start only `wait` ticks after the one before it."""
    # Later on the rows would repeat that a step never falls.
    ticks = np.arange(step.begin, min(step.end, before.end + wait))
    if ticks.size:
        program.rows(0.0, inf, (1.0, before.at(ticks - wait)), (-1.0, step.at(ticks)))


def _moments(steps: list[Step]) -> IntArray:
    """Ticks at which one of the steps may rise: only then can a limit be exceeded anew."""
    return np.unique(np.concatenate([np.arange(step.begin, step.end + 1) for step in steps]))


def _between(begin: Step, end: Step, length: int, ticks: IntArray) -> tuple[IntArray, IntArray]:
    """Columns whose difference says "has begun and not ended `length` ticks after `end`"."""
    over = ticks >= end.end + length
    begun = np.where(over, NOTHING, begin.at(ticks))
    return begun, np.where(over, NOTHING, end.at(ticks - length))


def _gpu(program: Program, chain: Chains, steps: tuple[Step, ...], n: int, s: int) -> None:
    takes = chain.length[n] + chain.tail[n]
    here = [
        o for o in np.flatnonzero((chain.stage == s) & (takes > 0)) if steps[o].after != NOTHING
    ]
    if len(here) < 2:
        return
    ticks = _moments([steps[o] for o in here])
    terms: list[tuple[float, IntArray]] = []
    for o in here:
        begun, ended = _between(steps[o], steps[o], int(takes[o]), ticks)
        terms += [(1.0, begun), (-1.0, ended)]
    program.rows(-inf, 1.0, *terms)


def _memory(
    program: Program, data: Rounded, chain: Chains, steps: tuple[Step, ...], n: int, s: int
) -> None:
    forwards = np.flatnonzero((chain.stage == s) & (chain.phase == FORWARD)).tolist()
    for row in data.memory[n][s]:
        weight = {o: row.weights[chain.task[o]] for o in forwards if steps[o].after != NOTHING}
        here = [o for o, each in weight.items() if each]
        if sum(weight.values()) <= row.limit:
            continue
        ticks = _moments([steps[o] for o in here])
        terms: list[tuple[float, IntArray]] = []
        for o in here:
            last = chain.holds_until(int(chain.task[o]), s)
            begun, ended = _between(steps[o], steps[last], int(chain.length[n, last]), ticks)
            terms += [(float(weight[o]), begun), (-float(weight[o]), ended)]
        program.rows(-inf, float(row.limit), *terms)


def _releases(program: Program, chain: Chains, window: Windows, start: Starts) -> None:
    for before, after in chain.loop:
        event, first = chain.event[before], chain.spans[after][0]
        nodes = np.flatnonzero(window.may[after])
        ticks = np.arange(window.early[nodes, first].min(), window.late[nodes, first].max())
        if ticks.size:
            terms = [(-1.0, steps[first].at(ticks)) for steps in start.begun]
            terms += [
                (1.0, steps[event].at(ticks - int(chain.length[n, event])))
                for n, steps in enumerate(start.begun)
            ]
            program.rows(0.0, inf, *terms)


def _one_order(
    program: Program, instance: Instance, chain: Chains, window: Windows, start: Starts
) -> None:
    """Order forwards alike on all stages, by big-M rows.

    Rows per tick would be stronger but far too many; the GPUs' rows keep operations apart anyway.
    """
    early = np.where(window.may[chain.task].T, window.early, 2**62).min(axis=0)
    late = np.where(window.may[chain.task].T, window.late, -1).max(axis=0)
    times: dict[int, IntArray] = {}
    for o in np.flatnonzero(chain.phase == FORWARD).tolist():
        low, high = float(early[o]), float(late[o])
        times[o] = np.array([program.add(lower=low, upper=high)])
        terms: list[tuple[float, IntArray]] = [(-1.0, times[o])]
        for n, steps in enumerate(start.begun):
            if window.may[chain.task[o], n]:
                terms.append((float(steps[o].end), start.on[chain.task[o], n : n + 1]))
                terms.append((-1.0, steps[o].columns()))
        program.row(0.0, 0.0, *terms)
    for i in range(instance.tasks):
        for j in range(i + 1, instance.tasks):
            both = np.flatnonzero(window.may[i] & window.may[j])
            ahead = np.array([program.add()]) if both.size else np.zeros(0, dtype=np.int64)
            for n in both.tolist():
                on = start.on[[i, j], n]
                for s in range(instance.cluster.stages):
                    a, b = chain.spans[i][0] + s, chain.spans[j][0] + s
                    for one, two, first in ((a, b, True), (b, a, False)):
                        length = int(chain.length[n, one])
                        most = float(max(0, length - int(early[two]) + int(late[one])))
                        # two − one ≥ length, unless one of three conditions fails.
                        sides = length - most * (3 if first else 2)
                        order = -most if first else most
                        program.row(
                            sides,
                            inf,
                            (1.0, times[two]),
                            (-1.0, times[one]),
                            (-most, on),
                            (order, ahead),
                        )
