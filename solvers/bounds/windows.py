"""When operations can start in any schedule that is at least as good as a known one.

Reduced costs of the Lagrangian: under its prices, the cheapest chains that start an operation at a
tick bound every schedule that does so. Where that exceeds the known value, the tick is ruled out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.engine.books import ASYNC, OPEN, SYNC
from lemix_opt.schedule import BACKWARD, FORWARD
from solvers.bounds.chains import Rows
from solvers.bounds.lagrangian import Relaxation
from solvers.exact.readout import Key

ALLOWANCE = 1e-6
"""Relative allowance for sums of floats."""


@dataclass(frozen=True)
class _Task:
    """Costs of one task on one class.

    ``run`` [P,A]: price of every operation by start; ``rest`` [P,A]: the same with all that
    follows; ``steps`` [P]: ticks until the next operation may start.
    """

    run: FloatArray
    rest: FloatArray
    steps: IntArray


def windows(
    relaxation: Relaxation,
    gpu: FloatArray,
    memory: FloatArray,
    clique: FloatArray,
    upper_s: float,
) -> dict[Key, tuple[int, int]]:
    """Return first and last start of every operation in schedules that cost at most `upper_s`.

    Parameters
    ----------
    relaxation : Relaxation
        Built from an instance on its time grid.
    gpu, memory : ndarray, shape (C, S, horizon)
    clique : ndarray, shape (K, C, S, horizon)
        Prices, such as the multipliers of a `lagrangian` bound.
    upper_s : float
        Value of a known schedule in the terms of the relaxation.

    Returns
    -------
    dict of (task, phase, stage) to (int, int)
        In ticks; empty windows never occur for the starts of schedules that are good enough. Where
        quiet times were left out, they hold for some best schedule rather than for all.
    """
    run = _Windows(relaxation, Rows(gpu, memory, clique))
    spare_s = upper_s - run.value_s + ALLOWANCE * max(abs(upper_s), abs(run.value_s))
    return run.within(spare_s / relaxation.tick_s)


class _Windows:
    def __init__(self, relaxation: Relaxation, prices: Rows) -> None:
        self.r, self.chains = relaxation, relaxation.chains
        self.value_s = relaxation.value_s(*prices)
        self.classes, self.stages, _ = prices.gpu.shape
        self.prices = relaxation.rows(relaxation.ticks)
        for price, total in zip(prices, self.prices, strict=True):
            np.cumsum(price, axis=-1, out=total[..., 1 : relaxation.horizon + 1])
            total[..., relaxation.horizon + 1 :] = total[..., relaxation.horizon, None]

    def _task(self, kind: int, i: int, after: FloatArray | None) -> _Task:
        """Price a chain; `after` is what its end hands over to."""
        chains, stages, ticks = self.chains, self.stages, self.r.ticks
        trains = bool(chains.training[i])
        count = 2 * stages if trains else stages
        closing = int(chains.closing[kind]) if trains else 0
        end = np.arange(ticks) + closing
        follows = chains.weight[i] * (end - chains.release[i]) + chains.penalty[i] * (
            end > chains.due[i]
        )
        if after is not None:
            follows = follows + after
        run, rest = np.full((2, count, ticks), np.inf)
        steps = chains.length[kind, i, :count] + chains.pause[kind, i, :count]
        steps[-1] -= chains.pause[kind, i, count - 1]
        for k in range(count - 1, -1, -1):
            s = k if k < stages else 2 * stages - 1 - k
            busy, length = int(chains.busy[kind, i, k]), int(chains.length[kind, i, k])
            gpu, clique = self.prices.gpu[kind, s], self.prices.clique[:, kind, s]
            hold = chains.held[kind, i, s] * self.prices.memory[kind, s]
            hold += chains.holds[:, kind, i, s] @ clique
            with_memory = chains.runs[:, kind, i, s] @ clique
            starts, ends = k < stages, k >= stages or not trains
            until = ticks - max(busy, int(steps[k]))
            t = np.arange(max(until, 0))
            run[k, t] = gpu[t + busy] - gpu[t] + with_memory[t + length] - with_memory[t]
            run[k, t] += ends * hold[t + length] - starts * hold[t]
            rest[k, t] = run[k, t] + follows[t + steps[k]]
            follows = _from(rest[k])
        return _Task(run, rest, steps)

    def _through(self, task: _Task, arrive: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the least cost with every operation at a tick, and of reaching the end by one."""
        through = np.full_like(task.rest, np.inf)
        for k in range(len(task.steps)):
            through[k] = arrive + task.rest[k]
            reached = np.full_like(arrive, np.inf)
            step = int(task.steps[k])
            spent = arrive + task.run[k]
            reached[step:] = spent[: spent.size - step]
            arrive = np.minimum.accumulate(reached)
        return through, arrive

    def within(self, spare: float) -> dict[Key, tuple[int, int]]:
        """Return the windows that `spare` ticks above the bound leave."""
        chains, r = self.chains, self.r
        found: dict[Key, tuple[int, int]] = {}
        looped = set(r.loop.tolist()) if r.mode != OPEN else set()
        for i in range(chains.training.size):
            if i in looped:
                continue
            arrive = np.where(np.arange(r.ticks) >= chains.head[i], 0.0, np.inf)
            costs = [self._through(self._task(kind, i, None), arrive)[0] for kind in self._kinds(i)]
            self._note(found, i, np.min(costs, axis=0), spare)
        if looped:
            self._loop(found, spare)
        return found

    def _loop(self, found: dict[Key, tuple[int, int]], spare: float) -> None:
        chains, r = self.chains, self.r
        after = np.zeros(r.ticks)
        behind = [after]
        for i in reversed(r.loop.tolist()):
            firsts = []
            for kind in self._kinds(i):
                task = self._task(kind, i, after if r.mode == SYNC else None)
                first = task.rest[0].copy()
                if r.mode == ASYNC:
                    first += _ahead(after, int(chains.length[kind, i, 0]))
                first[: chains.head[i]] = np.inf
                firsts.append(first)
            after = _from(np.min(firsts, axis=0))
            behind.append(after)
        before = np.zeros(r.ticks)
        for g, i in enumerate(r.loop.tolist()):
            after = behind[r.loop.size - 1 - g]
            costs, ends = [], []
            for kind in self._kinds(i):
                task = self._task(kind, i, after if r.mode == SYNC else None)
                arrive = before.copy()
                arrive[: chains.head[i]] = np.inf
                length = int(chains.length[kind, i, 0])
                if r.mode == ASYNC:
                    spent = arrive + task.rest[0]
                    handed = np.full(r.ticks, np.inf)
                    handed[length:] = spent[: r.ticks - length]
                    ends.append(np.minimum.accumulate(handed))
                    costs.append(self._through(task, arrive + _ahead(after, length))[0])
                else:
                    # The response of the task itself is paid at its end.
                    through, reached = self._through(task, arrive)
                    end = np.arange(r.ticks) + int(chains.closing[kind])
                    ends.append(reached + chains.weight[i] * (end - chains.release[i]))
                    costs.append(through)
            self._note(found, i, np.min(costs, axis=0), spare)
            before = np.minimum.accumulate(np.min(ends, axis=0))

    def _kinds(self, i: int) -> list[int]:
        return [kind for kind in range(self.classes) if self.chains.allowed[kind, i]]

    def _note(
        self, found: dict[Key, tuple[int, int]], i: int, costs: FloatArray, spare: float
    ) -> None:
        for k, row in enumerate(costs):
            ticks = np.flatnonzero(row <= costs.min() + spare)
            phase = FORWARD if k < self.stages else BACKWARD
            s = k if k < self.stages else 2 * self.stages - 1 - k
            quiet = int(self.r.quiet[i])
            found[i, phase, s] = (quiet + int(ticks[0]), quiet + int(ticks[-1]))


def _from(costs: FloatArray) -> FloatArray:
    """Return the least entry from each place on."""
    return np.minimum.accumulate(costs[::-1])[::-1]


def _ahead(costs: FloatArray, by: int) -> FloatArray:
    """Return the entries so many places further on, infinity behind the last."""
    return np.concatenate((costs[by:], np.full(by, np.inf)))
