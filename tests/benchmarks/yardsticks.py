"""What speed can be compared with: an event heap in numba that knows no policy, memory or rule."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(cache=False)  # type: ignore[untyped-decorator]
def event_heap(release_s: Any, forward_s: Any, backward_s: Any, training: Any, nodes: int) -> float:
    """Run tasks round robin through FIFO stages, there and (training) back; return the end."""
    tasks, stages = forward_s.shape
    gpus = nodes * stages
    times, keys, size = np.empty(4 * gpus + 4), np.empty(4 * gpus + 4, np.int64), 0
    head, tail = np.full(gpus, -1), np.full(gpus, -1)
    after = np.full(tasks, -1)
    at = np.zeros(tasks, np.int64)
    busy = np.zeros(gpus, np.bool_)
    coming, now = 0, 0.0
    while coming < tasks or size:
        if size and (coming == tasks or times[0] <= release_s[coming]):
            now, task = times[0], keys[0]
            size -= 1
            time_s, key = times[size], keys[size]
            k, child = 0, 1
            while child < size:
                if child + 1 < size and times[child + 1] < times[child]:
                    child += 1
                if time_s <= times[child]:
                    break
                times[k], keys[k] = times[child], keys[child]
                k = child
                child = 2 * k + 1
            times[k], keys[k] = time_s, key
            step = at[task]
            stage = step if step < stages else 2 * stages - 1 - step
            gpu = (task % nodes) * stages + stage
            busy[gpu] = False
            freed = gpu
            at[task] += 1
            last = 2 * stages if training[task] else stages
            moved = at[task] < last
        else:
            now, task = release_s[coming], coming
            coming += 1
            freed, moved = -1, True
        for turn in range(2):
            if turn == 0 and moved:
                step = at[task]
                stage = step if step < stages else 2 * stages - 1 - step
                gpu = (task % nodes) * stages + stage
                after[task] = -1
                if tail[gpu] < 0:
                    head[gpu] = task
                else:
                    after[tail[gpu]] = task
                tail[gpu] = task
            elif turn == 1 and freed >= 0:
                gpu = freed
            else:
                continue
            if busy[gpu] or head[gpu] < 0:
                continue
            first = head[gpu]
            head[gpu] = after[first]
            if head[gpu] < 0:
                tail[gpu] = -1
            step = at[first]
            if step < stages:
                time_s = now + forward_s[first, step]
            else:
                time_s = now + backward_s[first, 2 * stages - 1 - step]
            busy[gpu] = True
            k = size
            size += 1
            while k > 0:
                parent = (k - 1) >> 1
                if times[parent] <= time_s:
                    break
                times[k], keys[k] = times[parent], keys[parent]
                k = parent
            times[k], keys[k] = time_s, first
    return now
