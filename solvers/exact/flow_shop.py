"""Orders of permutation flow shops: NEH and iterated greedy.

M. Nawaz, E. Enscore and I. Ham, "A heuristic algorithm for the m-machine, n-job flow-shop
sequencing problem", Omega 11(1), 91-95, 1983. R. Ruiz and T. Stützle, "A simple and effective
iterated greedy algorithm for the permutation flowshop scheduling problem", EJOR 177(3), 2033-2049,
2007, with its destruction of four jobs and temperature factor 0.4.
"""

from __future__ import annotations

import numpy as np

from lemix_opt.checks import IntArray

_REMOVED, _TEMPERATURE = 4, 0.4


class FlowShop:
    """Jobs that pass all machines in one order.

    Parameters
    ----------
    length : ndarray of int, shape (jobs, machines)
        Durations.
    gap : ndarray of int, shape (jobs, machines)
        Ticks between the end on the machine before and the start; 0 on the first one.
    release : ndarray of int, shape (jobs,)
        Earliest starts.
    """

    def __init__(self, length: IntArray, gap: IntArray, release: IntArray) -> None:
        self.length: list[list[int]] = length.tolist()
        self.gap: list[list[int]] = gap.tolist()
        self.release: list[int] = release.tolist()
        self.machines = range(length.shape[1])

    def makespan(self, order: list[int]) -> int:
        """Last end when jobs go in this order."""
        return max(self._heads(order)[-1], default=0)

    def _heads(self, order: list[int]) -> list[list[int]]:
        """Return the ends on every machine after the first k jobs, for all k."""
        ends = [0 for _ in self.machines]
        found = [ends]
        for job in order:
            ready, ends = self.release[job], list(ends)
            for m, length, gap in zip(self.machines, self.length[job], self.gap[job], strict=True):
                ready += gap
                ready = ends[m] = (ready if ready > ends[m] else ends[m]) + length
            found.append(ends)
        return found

    def _tails(self, order: list[int]) -> tuple[list[list[int]], list[int]]:
        """Return the ticks from machine to last end behind the first k jobs, for all k.

        Second, the least last end that the releases of these jobs allow.
        """
        rest, least = [0 for _ in self.machines], 0
        tails, ends = [rest], [least]
        for job in reversed(order):
            behind, gap, rest = 0, 0, list(rest)
            for m in reversed(self.machines):
                behind += gap
                behind = rest[m] = (behind if behind > rest[m] else rest[m]) + self.length[job][m]
                gap = self.gap[job][m]
            least = max(least, self.release[job] + gap + behind)
            tails.append(rest)
            ends.append(least)
        return tails[::-1], ends[::-1]

    def insert(self, order: list[int], job: int) -> tuple[list[int], int]:
        """Put a job where the makespan grows least, first of equal places.

        All places are tried in the time of one evaluation each machine (E. Taillard, "Some
        efficient heuristic methods for the flow shop sequencing problem", EJOR 47(1), 65-74, 1990).
        """
        heads, (tails, ends) = self._heads(order), self._tails(order)
        steps = list(zip(self.length[job], self.gap[job], strict=True))
        best, place = -1, 0
        for k, (head, tail, least) in enumerate(zip(heads, tails, ends, strict=True)):
            ready, value = self.release[job], least
            for (length, gap), free, rest in zip(steps, head, tail, strict=True):
                ready += gap
                ready = (ready if ready > free else free) + length
                if ready + rest > value:
                    value = ready + rest
            if best < 0 or value < best:
                best, place = value, k
        return [*order[:place], job, *order[place:]], best

    def neh(self) -> list[int]:
        """Insert the jobs by falling work."""
        order: list[int] = []
        for job in sorted(range(len(self.length)), key=lambda job: -sum(self.length[job])):
            order, _ = self.insert(order, job)
        return order

    def improve(self, order: list[int], rounds: int, rng: np.random.Generator) -> list[int]:
        """Remove and reinsert jobs, with insertion local search, `rounds` times."""
        order, value = self._descend(order, rng)
        best, least = order, value
        heat = _TEMPERATURE * float(np.mean(self.length)) / 10
        for _ in range(rounds):
            taken = rng.permutation(len(order))[: min(_REMOVED, len(order) - 1)].tolist()
            jobs = [order[k] for k in taken]
            rest = [job for job in order if job not in jobs]
            for job in jobs:
                rest, _ = self.insert(rest, job)
            found, reached = self._descend(rest, rng)
            if reached <= value or rng.random() < np.exp((value - reached) / heat):
                order, value = found, reached
            if value < least:
                best, least = order, value
        return best

    def _descend(self, order: list[int], rng: np.random.Generator) -> tuple[list[int], int]:
        value, better = self.makespan(order), True
        while better:
            better = False
            for job in rng.permutation(order).tolist():
                found, reached = self.insert([j for j in order if j != job], job)
                if reached < value:
                    order, value, better = found, reached, True
        return order, value
