"""`View`: what a policy may know, handed to compiled code by its address."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from lemix_opt.engine.address import Addressed, AddressType
from lemix_opt.engine.jit import inlined
from lemix_opt.instance import Instance


class Columns(NamedTuple):
    """The columns of a `View`, all read-only."""

    training: npt.NDArray[np.uint8]
    release_s: npt.NDArray[np.float64]
    batch: npt.NDArray[np.int64]
    prompt_tokens: npt.NDArray[np.int64]
    slo_s: npt.NDArray[np.float64]
    node_class: npt.NDArray[np.int64]
    forward_s: npt.NDArray[np.float64]
    backward_s: npt.NDArray[np.float64]
    held_bytes: npt.NDArray[np.float64]
    hop_s: npt.NDArray[np.float64]
    update_s: npt.NDArray[np.float64]
    memory_bytes: npt.NDArray[np.float64]
    capacity_bytes: npt.NDArray[np.float64]
    resident_bytes: npt.NDArray[np.float64]
    room_bytes: npt.NDArray[np.float64]
    all_fit: int


_DIMENSIONS = (1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 2, 2, 2, 2, 2)
_ENTRIES = (types.uint8, types.float64, types.int64, types.int64, types.float64, types.int64)
COLUMN_TYPES = {
    name: types.Array(entry, dimensions, "C", readonly=True)
    for name, entry, dimensions in zip(
        Columns._fields[:-1], (*_ENTRIES, *[types.float64] * 9), _DIMENSIONS, strict=True
    )
}
COLUMNS_T = types.NamedTuple((*COLUMN_TYPES.values(), types.int64), Columns)
VIEW_T = AddressType("lemix_opt.View", COLUMNS_T)


class View(Addressed):
    """What a policy may know: tasks, predicted costs and capacities, all read-only.

    Shapes: T tasks, N nodes, S stages, K node classes; seconds and bytes. Columns by task:
    ``training`` (0 or 1), ``release_s``, ``batch``, ``prompt_tokens``, ``slo_s``; by node:
    ``node_class``; ``forward_s``, ``backward_s``, ``held_bytes`` [K,T,S] (the most a task holds at
    once, `Instance.peak_bytes`), ``hop_s`` [K,T,S−1], ``update_s`` [K,S] (with the
    all-reduce, `Costs.closing_s`), ``memory_bytes``, ``capacity_bytes``, ``resident_bytes`` and
    ``room_bytes`` [N,S] (the most that one task may hold, `Instance.room_bytes`). ``all_fit`` is 1
    if every task fits on every node; `fits` tells which do.
    """

    numba_type = VIEW_T
    __slots__ = ()


def fixed(array: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    """Return a contiguous read-only column."""
    column = np.ascontiguousarray(array, dtype=dtype).view()
    column.setflags(write=False)
    return column


def view_of(instance: Instance) -> View:
    """Return the columns a policy may read."""
    work, costs = instance.workload, instance.costs
    columns = (
        (work.kind, np.uint8),
        (work.release_s, np.float64),
        (work.batch, np.int64),
        (work.prompt_tokens, np.int64),
        (work.slo_s, np.float64),
        (instance.cluster.node_class, np.int64),
        (costs.forward_s, np.float64),
        (costs.backward_s, np.float64),
        (instance.peak_bytes(costs), np.float64),
        (costs.hop_s, np.float64),
        (costs.closing_s, np.float64),
        (instance.cluster.memory_bytes, np.float64),
        (instance.capacity_bytes, np.float64),
        (instance.resident_bytes, np.float64),
        (instance.room_bytes, np.float64),
    )
    arrays = [fixed(array, dtype) for array, dtype in columns]
    return View(Columns._make([*arrays, int(instance.fits_everywhere)]))


@inlined
def fits(view: View, node: int, task: int) -> bool:
    """Whether a task fits alone on a node, as predicted (`Instance.fits`)."""
    if view.all_fit:
        return True
    kind = view.node_class[node]
    for s in range(view.room_bytes.shape[1]):
        if view.held_bytes[kind, task, s] > view.room_bytes[node, s]:
            return False
    return True
