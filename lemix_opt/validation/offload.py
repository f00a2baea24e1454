"""Rules of activations that are moved to the host's memory and back."""

from __future__ import annotations

import numpy as np

from lemix_opt.schedule import BACKWARD, FORWARD, OFFLOAD, PHASES
from lemix_opt.validation.operations import OperationTable
from lemix_opt.validation.violation import TOLERANCE_S, Violation


def move_faults(table: OperationTable) -> list[Violation]:
    """Check that moves take bytes / rate, lie between forward and backward, and lead to it."""
    moves, instance, own = table.moves, table.instance, table.own
    if not moves.rows:
        return []
    task, stage = moves.task.astype(np.int64), moves.stage.astype(np.int64)
    node, found = table.schedule.node[task], []
    kind = instance.cluster.node_class[node]
    wanted = instance.costs.held_bytes[kind, task, stage] / instance.waiting.offload_bytes_per_s
    # Only training tasks move, and those that do have one micro-batch.
    row = table.first[task] + stage
    backward_s = own.start_s[row + instance.cluster.stages * BACKWARD]
    out = moves.phase == OFFLOAD
    # Offloads are in order of task and stage within each task, as their reloads are.
    after_s = own.end_s[row + instance.cluster.stages * FORWARD].copy()
    order = np.lexsort((stage, task))
    after_s[order[~out[order]]] = moves.end_s[order[out[order]]]
    took = moves.end_s - moves.start_s
    wrong_length = np.abs(took - wanted) > TOLERANCE_S
    wrong_end = ~out & (np.abs(backward_s - moves.end_s) > TOLERANCE_S)
    early = moves.start_s < after_s - TOLERANCE_S
    for r in np.flatnonzero(wrong_length | wrong_end | early).tolist():
        start, end = float(moves.start_s[r]), float(moves.end_s[r])
        what = f"{PHASES[moves.phase[r]]} of task {task[r]} on stage {stage[r]}"
        where = (int(task[r]), int(stage[r]), int(node[r]))
        if wrong_length[r]:
            text = f"{what} takes {took[r]:.9g} s, expected {wanted[r]:.9g} s"
            found.append(Violation("duration", text, *where, start))
        if wrong_end[r]:
            text = f"{what} ends at {end:.9g} s, but its backward starts at {backward_s[r]:.9g} s"
            found.append(Violation("move", text, *where, end))
        if early[r]:
            text = f"{what} starts at {start:.9g} s, expected at least {after_s[r]:.9g} s"
            found.append(Violation("move", text, *where, start))
    return found
