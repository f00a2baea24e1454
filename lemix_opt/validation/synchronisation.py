"""Rules of weight synchronisation: who sends weights, when, and for how long."""

from __future__ import annotations

import numpy as np

from lemix_opt.validation.operations import OperationTable
from lemix_opt.validation.tasks import Moments
from lemix_opt.validation.violation import TOLERANCE_S, Violation


def sync_faults(table: OperationTable, moments: Moments) -> list[Violation]:
    """Check that every n-th trained task sends weights, or a later one on its node does."""
    instance, schedule, sent = table.instance, table.schedule, table.syncs
    rule, last, found = instance.weight_sync, instance.cluster.stages - 1, []
    due_s = np.full(instance.tasks, np.inf)
    if rule is not None:
        trained = np.flatnonzero(
            instance.workload.is_training & ~np.isin(schedule.node, rule.serving)
        )
        order = trained[np.lexsort((trained, moments.end_s[trained]))]
        counted = order[rule.every - 1 :: rule.every]
        due_s[counted] = moments.end_s[counted]
    node = schedule.node[sent.task]
    seconds = rule.seconds if rule is not None else 0.0
    wrong = (sent.stage != last) | (sent.start_s < due_s[sent.task] - TOLERANCE_S)
    wrong |= np.abs(sent.end_s - sent.start_s - seconds) > TOLERANCE_S
    wrong |= np.isinf(due_s[sent.task])
    for row in np.flatnonzero(wrong).tolist():
        task, stage, start = int(sent.task[row]), int(sent.stage[row]), float(sent.start_s[row])
        if np.isinf(due_s[task]):
            text = f"task {task} sends weights, which it does not set off"
        else:
            text = f"weights are sent on stage {stage} from {start:.9g} s to "
            text += f"{sent.end_s[row]:.9g} s, expected {seconds:.9g} s on stage {last} from "
            text += f"{due_s[task]:.9g} s on"
        found.append(Violation("sync", text, task, stage, int(node[row]), start))
    latest_s = np.full(instance.cluster.nodes, -np.inf)
    np.maximum.at(latest_s, node, sent.start_s)
    waiting = np.flatnonzero(np.isfinite(due_s))
    missing = latest_s[schedule.node[waiting]] < due_s[waiting] - TOLERANCE_S
    for task in waiting[missing].tolist():
        where = int(schedule.node[task])
        text = f"node {where} does not send weights after task {task}"
        found.append(Violation("sync", text, task, last, where, float(due_s[task])))
    return found
