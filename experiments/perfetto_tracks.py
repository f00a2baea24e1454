"""What a Perfetto trace shows: slices by lane, and counters of served runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.instance import Instance
from lemix_opt.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Shown:
    """One row per slice; all columns have shape (R,).

    Parameters
    ----------
    operation, iteration : ndarray of int
        Which operation, or which iteration, the slice is; −1 for the other.
    node, stage : ndarray of int
        Where it ran.
    start_s, end_s : ndarray
        Seconds.
    """

    operation: IntArray
    iteration: IntArray
    node: IntArray
    stage: IntArray
    start_s: FloatArray
    end_s: FloatArray

    @property
    def rows(self) -> int:
        """Number of slices R."""
        return int(self.node.shape[0])

    def take(self, rows: IntArray) -> Shown:
        """Return the given rows, in that order."""
        return Shown(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def tuples(self) -> Iterator[tuple[int, int, int, int, float, float]]:
        """Return the rows one by one."""
        return zip(*(getattr(self, f.name).tolist() for f in fields(self)), strict=True)


def shown(schedule: Schedule) -> Shown:
    """Return the operations of a schedule, then its iterations on every stage."""
    rows = schedule.operations
    none = np.full(rows.rows, -1, dtype=np.int64)
    found = Shown(np.arange(rows.rows), none, rows.node, rows.stage, rows.start_s, rows.end_s)
    if schedule.generated is None:
        return found
    turns = schedule.generated.iterations
    count, stages = turns.start_s.shape
    served = Shown(
        np.full(count * stages, -1, dtype=np.int64),
        np.repeat(np.arange(count), stages),
        np.repeat(turns.node, stages),
        np.tile(np.arange(stages), count),
        turns.start_s.ravel(),
        turns.end_s.ravel(),
    )
    both = ((getattr(found, f.name), getattr(served, f.name)) for f in fields(Shown))
    return Shown(*(np.concatenate(pair) for pair in both))


def nanoseconds(seconds: Any) -> IntArray:
    """Return seconds as whole nanoseconds, in which the viewer counts."""
    return np.rint(np.asarray(seconds) * 1e9).astype(np.int64)


def lanes(rows: Shown, stages: int) -> tuple[IntArray, IntArray, IntArray]:
    """Give every slice the first lane of its GPU that is free.

    Returns
    -------
    lane : ndarray of int, shape (R,)
        From 0 on, by node and stage; slices of a lane do not overlap.
    start_ns, end_ns : ndarray of int, shape (R,)
        Whole nanoseconds. What begins by up to one before its lane is free, which is within the
        validator's tolerance, begins with it.
    """
    start, end = nanoseconds(rows.start_s), nanoseconds(rows.end_s)
    lane = np.zeros(rows.rows, dtype=np.int64)
    gpu = rows.node * stages + rows.stage
    free: dict[int, list[int]] = {}
    for row in np.lexsort((end, start)).tolist():
        ends = free.setdefault(int(gpu[row]), [])
        begins = int(start[row])
        number = next((k for k, at in enumerate(ends) if at <= begins + 1), len(ends))
        if number == len(ends):
            ends.append(begins)
        start[row] = max(begins, ends[number])
        end[row] = max(int(end[row]), int(start[row]))
        lane[row], ends[number] = number, int(end[row])
    return lane, start, end


def served_counters(instance: Instance, schedule: Schedule, until_s: float) -> list[dict[str, Any]]:
    """Return counters of requests in the running batch and of KV memory, by node.

    Batches are empty from the end of an iteration on that none follows at once. KV memory is that
    of the last iteration until the next one, and nothing once no request is under way.
    """
    made, costs = schedule.generated, instance.costs.iteration
    if made is None or costs is None:
        return []
    rows, found = made.iterations, []
    for node in range(instance.cluster.nodes):
        mine = np.flatnonzero((rows.node == node) & (rows.start_s.min(axis=1) <= until_s))
        mine = mine[np.argsort(rows.start_s[mine, 0], kind="stable")]
        here = schedule.node == node
        starts, lasts = np.sort(made.start_s[here]), np.sort(made.last_token_s[here])
        each = costs.kv_bytes_per_token[instance.cluster.node_class[node]]
        begins = rows.start_s[mine, 0]
        ends = rows.end_s[mine].max(axis=1, initial=0.0)
        follows = np.append(begins[1:], np.inf)
        under_way = np.searchsorted(starts, ends, "right") - np.searchsorted(lasts, ends, "right")
        for row, begin, end, following, left in zip(
            mine.tolist(),
            begins.tolist(),
            ends.tolist(),
            follows.tolist(),
            under_way.tolist(),
            strict=True,
        ):
            batch = {"prefills": int(rows.prefills[row]), "decodes": int(rows.decodes[row])}
            found.append(_sample("batch size", node, begin, batch))
            found += _kv(node, begin, int(rows.kv_tokens[row]), each)
            if nanoseconds(following) > nanoseconds(end) if following < np.inf else True:
                if end > until_s:
                    continue
                found.append(_sample("batch size", node, end, dict.fromkeys(batch, 0)))
                found += _kv(node, end, 0, each) if left <= 0 else []
    return found


def _kv(node: int, at: float, tokens: int, bytes_per_token: FloatArray) -> list[dict[str, Any]]:
    return [
        _sample("KV memory tokens", node, at, {"held": tokens}),
        *(
            _sample(f"stage {stage} KV memory GiB", node, at, {"held": tokens * each / 2**30})
            for stage, each in enumerate(bytes_per_token.tolist())
        ),
    ]


def _sample(name: str, node: int, at: float, values: dict[str, Any]) -> dict[str, Any]:
    ts = float(nanoseconds(at)) / 1000
    return {"name": name, "ph": "C", "ts": ts, "pid": node, "args": values}
