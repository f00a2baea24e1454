"""Linear rows that bound an end from below by what a GPU has to do before it."""

from __future__ import annotations

from typing import Any

from solvers.exact.readout import Key
from solvers.exact.variables import Model


def load_rows(model: Model, ends: dict[int, Any]) -> None:
    """Bound the end, or span, of every node by the load of each of its GPUs.

    Parameters
    ----------
    ends : dict of int to expression
        By node, what is at least as long as the node's GPUs are busy.
    """
    for (n, _), runs in model.runs.items():
        if n in ends and runs:
            load = sum(_size(model, key, n) * model.on[key[0]][n] for key, _ in runs)
            model.cp.add(ends[n] >= load)


def head_tail_rows(model: Model, end: Any, *, most: int = 8) -> None:
    """Bound the makespan by head + load + tail of operations that start late and are followed long.

    For every GPU and thresholds r and q: r + Σ size·on + q over the operations with heads of at
    least r and tails of at least q. No condition is needed for a node that has none of them: their
    tasks run somewhere, and each of these takes r + q.

    Parameters
    ----------
    end : expression
        The makespan.
    most : int, default 8
        Thresholds of each kind, spread over the values that occur.
    """
    for (n, _), runs in model.runs.items():
        rows = [(model.head[key], _behind(model, key), key) for key, _ in runs]
        known = set()
        for least_head in _spread({row[0] for row in rows}, most):
            for least_tail in _spread({row[1] for row in rows}, most):
                late = [row for row in rows if row[0] >= least_head and row[1] >= least_tail]
                keys = frozenset(key for _, _, key in late)
                if keys and keys not in known:
                    known.add(keys)
                    load = sum(_size(model, key, n) * model.on[key[0]][n] for _, _, key in late)
                    around = min(row[0] for row in late) + min(row[1] for row in late)
                    model.cp.add(end >= load + around)


def _size(model: Model, key: Key, n: int) -> int:
    chain = model.chain[key[0]]
    k, at = chain.steps.index(key[1:]), chain.nodes.index(n)
    return int(chain.length[at, k] + chain.tail[at, k])


def _behind(model: Model, key: Key) -> int:
    chain = model.chain[key[0]]
    return int(chain.behind[chain.steps.index(key[1:])])


def _spread(values: set[int], most: int) -> list[int]:
    ordered = sorted(values)
    step = max(1, -(-len(ordered) // most))
    return ordered[::step]
