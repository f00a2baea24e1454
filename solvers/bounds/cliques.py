"""Sets of tasks of which a node serves one at a time, by what they hold.

GPUs and memory that are counted apart forget that a training task which fills a node keeps every
request with a need of its own away from it, computing or not. For a threshold m of at most half a
node's memory, of the following no two can be on one stage of one node at once: tasks that hold m
or more and compute, since a GPU runs one at a time, and training that holds more than the memory
less m, since it leaves less than m. So over the nodes of a class there are never more of them than
nodes. (A clique of the conflict graph; with m = 0 it is the GPU itself.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lemix_opt.checks import BoolArray, IntArray

ByteArray = npt.NDArray[np.uint8]

MOST = 8
"""Thresholds of a class and stage that are used, spread over all that make a difference."""


def cliques(held: IntArray, room: IntArray, training: BoolArray) -> tuple[ByteArray, ByteArray]:
    """Return who belongs to which clique, while computing and while holding memory.

    Parameters
    ----------
    held : ndarray of int, shape (C, T, S)
        MiB of every task, by class.
    room : ndarray of int, shape (C, S)
        MiB of the largest node of a class.
    training : ndarray of bool, shape (T,)
        Which tasks train; the others hold memory only while they compute.

    Returns
    -------
    runs, holds : ndarray of uint8, shape (K, C, T, S)
        Membership of training that computes, and of what holds memory. No task has both.
    """
    classes, tasks, stages = held.shape
    runs, holds = np.zeros((2, MOST, classes, tasks, stages), dtype=np.uint8)
    for c in range(classes):
        for s in range(stages):
            need, space = held[c, :, s], int(room[c, s])
            for k, least in enumerate(_thresholds(need, space, training)):
                fills = training & (need > space - least)
                holds[k, c, :, s] = fills | (~training & (need >= least))
                runs[k, c, :, s] = training & ~fills & (need >= least)
    used = holds.any(axis=(1, 2, 3))
    return runs[used], holds[used]


def _thresholds(need: IntArray, space: int, training: BoolArray) -> list[int]:
    """Return thresholds of one stage: the least needs that some training keeps away."""
    left = space - need[training]
    found = {
        int(need[need > free].min())
        for free in left[(left >= 0) & (left < space)].tolist()
        if np.any(need > free)
    }
    fair = sorted(least for least in found if 0 < 2 * least <= space)
    if len(fair) <= MOST:
        return fair
    chosen = np.linspace(0, len(fair) - 1, MOST).round().astype(int)
    return [fair[k] for k in chosen]
