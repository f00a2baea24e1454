"""A first schedule, so that an answer is at hand and the search has something to improve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lemix_opt.instance import Instance
from solvers.exact.board import Board
from solvers.exact.chains import Chain
from solvers.exact.data import TickData
from solvers.exact.flow_shop import FlowShop
from solvers.exact.heads import Loop
from solvers.exact.limits import Limits

_FLOW_SHOP_EFFORT, _FLOW_SHOP_ROUNDS = 2_400_000, 100
"""Rounds of iterated greedy × jobs³ × machines, and the most rounds."""

_BEAM = 8
"""Partial schedules that are kept while the training tasks are placed."""


def first_boards(
    instance: Instance, data: TickData, chain: Sequence[Chain], loop: Loop, limits: Limits
) -> list[Board]:
    """Return complete schedules by several rules of insertion.

    Tasks go in order of release to the node where they end first; or the training tasks first,
    by beam search for the earliest end of the closed loop, and requests into the gaps they leave,
    in order of release or longest first.

    Parameters
    ----------
    loop : Loop
        Distances of training starts, which tell how late the loop ends behind a partial schedule.
    limits : Limits
        Of the run; `OutOfTimeError` is raised when they are over.
    """
    if not fits(data, chain):
        return []
    release = data.release.copy()
    training = instance.workload.is_training
    # The closed loop goes by index, also where own releases are out of order.
    release[training] = np.maximum.accumulate(release[training])
    by_release = np.argsort(release, kind="stable").tolist()
    empty = Board(instance, data, chain)
    boards = [insert(limits, empty.copy(), by_release)]
    if instance.fifo and instance.cluster.nodes == 1 and not training.any():
        boards.append(insert(limits, empty.copy(), _flow_shop_order(chain, data)))
    if training.any() and not instance.fifo:
        work = data.forward.min(axis=0).sum(axis=1)
        requests = [i for i in by_release if not training[i]]
        longest = sorted(requests, key=lambda i: -int(work[i]))
        first = _beam(limits, empty, np.flatnonzero(training).tolist(), loop)
        boards += [insert(limits, first.copy(), order) for order in (requests, longest)]
    return boards


def fits(data: TickData, chain: Sequence[Chain]) -> bool:
    """Whether every task fits on the nodes that its chain names."""
    return all(
        bool(np.all(data.held[list(c.nodes), i] <= data.room[list(c.nodes)]))
        for i, c in enumerate(chain)
    )


def _flow_shop_order(chain: Sequence[Chain], data: TickData) -> list[int]:
    """Order for the least makespan, memory aside."""
    if len(chain) < 2:
        return list(range(len(chain)))
    length = np.array([c.length[0] for c in chain])
    shop = FlowShop(length, np.array([c.gap[0] for c in chain]), data.release)
    effort = _FLOW_SHOP_EFFORT // (len(chain) ** 3 * length.shape[1])
    rounds = min(effort, _FLOW_SHOP_ROUNDS)
    return shop.improve(shop.neh(), rounds, np.random.default_rng(0)) if rounds else shop.neh()


def _ends_first(board: Board, i: int, starts: list[int], n: int) -> tuple[int, ...]:
    chain = board.chain[i]
    return (starts[-1] + int(chain.length[chain.nodes.index(n), -1]), starts[0])


def insert(limits: Limits, board: Board, order: Sequence[int]) -> Board:
    """Insert tasks in an order, each on the node where it ends first."""
    for i in order:
        limits.check()
        trials = [(n, board.trial(i, n)) for n in board.chain[i].nodes]
        n, starts = min(trials, key=lambda t: _ends_first(board, i, t[1], t[0]))
        board.place(i, n, starts)
    return board


def _beam(limits: Limits, empty: Board, trains: Sequence[int], loop: Loop) -> Board:
    """Place the training tasks in their order, keeping the best few partial schedules."""
    behind = np.zeros(len(trains), dtype=np.int64)
    if loop.tasks:
        length = np.array([int(empty.chain[i].after[0]) for i in trains])
        behind = np.array([(loop.lag[a, a:] + length[a:]).max() for a in range(len(trains))])
    beam = [(0, 0, empty)]
    for a, i in enumerate(trains):
        limits.check()
        grown = []
        for last, _, board in beam:
            for n in board.chain[i].nodes:
                starts = board.trial(i, n)
                end = max(last, _ends_first(board, i, starts, n)[0])
                grown.append(
                    (max(end, starts[0] + int(behind[a])), starts[0], end, n, starts, board)
                )
        grown.sort(key=lambda g: (g[0], g[1], g[2]))
        beam, seen = [], set()
        for _, begin, end, n, starts, board in grown:
            alike = (begin, end, tuple(starts))
            if alike not in seen and len(beam) < _BEAM:
                seen.add(alike)
                child = board.copy()
                child.place(i, n, starts)
                beam.append((end, begin, child))
    return beam[0][2]
