"""Model freshness: how many updates the replica held that served a request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.instance import Instance
from lemix_opt.schedule import DONE, SYNC, Schedule


@dataclass(frozen=True, eq=False)
class Freshness:
    """Updates behind every request.

    Parameters
    ----------
    updates : ndarray of int, shape (T,)
        Updates contained in the replica at the request's first start; −1 for training tasks and
        requests that never started.
    behind : ndarray of int, shape (T,)
        Updates by which the newest replica was ahead at that moment; −1 likewise.
    """

    updates: IntArray
    behind: IntArray

    def mean_updates(self) -> float:
        """Return the mean over served requests; NaN without any."""
        served = self.updates[self.updates >= 0]
        return float(served.mean()) if served.size else float("nan")


def freshness(instance: Instance, schedule: Schedule) -> Freshness:
    """Count the updates that every request was served with.

    A replica contains the updates of the training tasks that have ended on its node, and where
    `Instance.weight_sync` names the node as serving, those the sender had ended when the latest
    finished synchronisation began, with its own ones since. What ends at a moment counts for what
    starts then.

    Parameters
    ----------
    instance : Instance
        Kinds of the tasks, and the rule of synchronisation.
    schedule : Schedule
        What was executed; only tasks that are done count as updates.
    """
    work, nodes = instance.workload, instance.cluster.nodes
    end = schedule.end_s()
    start = schedule.start_s()
    asked = np.flatnonzero(work.is_inference & np.isfinite(start))
    trained = np.flatnonzero(work.is_training & (schedule.end_state == DONE))
    ended = [np.sort(end[trained[schedule.node[trained] == n]]) for n in range(nodes)]
    serving = () if instance.weight_sync is None else instance.weight_sync.serving
    loads = _loads(schedule, ended)

    def contained(node: int, at_s: FloatArray) -> IntArray:
        own = np.searchsorted(ended[node], at_s, side="right")
        if node not in serving:
            return own
        done_s, updates = loads
        place = np.searchsorted(done_s, at_s, side="right")
        since = np.searchsorted(ended[node], np.append(-np.inf, done_s), side="right")
        return np.asarray(np.append(0, updates)[place] + own - since[place])

    count = np.full(instance.tasks, -1, dtype=np.int64)
    behind = count.copy()
    at_s = start[asked]
    newest = np.zeros(asked.size, dtype=np.int64)
    for node in range(nodes):
        here = contained(node, at_s)
        newest = np.maximum(newest, here)
        on_it = schedule.node[asked] == node
        count[asked[on_it]] = here[on_it]
    behind[asked] = newest - count[asked]
    return Freshness(count, behind)


def _loads(schedule: Schedule, ended: list[FloatArray]) -> tuple[FloatArray, IntArray]:
    """Return when synchronisations end, and the updates each brings, in order of time."""
    rows = schedule.operations
    sync = np.flatnonzero(rows.phase == SYNC)
    sync = sync[np.lexsort((rows.start_s[sync], rows.end_s[sync]))]
    brought = [
        int(np.searchsorted(ended[int(rows.node[row])], rows.start_s[row], side="right"))
        for row in sync.tolist()
    ]
    return rows.end_s[sync], np.array(brought, dtype=np.int64)


def weight_sync_s(schedule: Schedule) -> float:
    """Return the seconds for which GPUs were taken by weight synchronisation."""
    rows = schedule.operations
    sync = rows.phase == SYNC
    return float(np.sum(rows.end_s[sync] - rows.start_s[sync]))
