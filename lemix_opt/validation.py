"""An independent check of a schedule against the rules of its instance.

Nothing here is shared with the engine or a solver, so that an error in one shows in the other.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np

from lemix_opt.end_reasons import end_reasons
from lemix_opt.instance import Instance
from lemix_opt.schedule import (
    BACKWARD,
    FORWARD,
    OFFLOAD,
    PHASES,
    RELOAD,
    SYNC,
    UPDATE,
    Schedule,
)
from lemix_opt.token_validation import check_tokens
from lemix_opt.validation_events import memory_event_faults, place_faults
from lemix_opt.validation_offload import move_faults, move_keys
from lemix_opt.validation_published import thread_faults, threshold_faults
from lemix_opt.violation import TOLERANCE_BYTES, TOLERANCE_S, Violation

_Key = tuple[int, int, int, int]
_Span = tuple[float, float]


def validate(instance: Instance, schedule: Schedule) -> list[Violation]:
    """Check a schedule against every rule of its instance.

    Rules beyond the exact model (`Instance.beyond_exact_model` names them) are checked as they
    are: under shared GPUs one operation per lane and the work every operation does, under the
    published threshold the use at every start and the whole GPU as limit. How long an operation
    waits is not checked, here as under all rules. So is what a policy declares: behind a deferred
    training task that gave up its place in the closed loop (`Schedule.gave_way`), the next one is
    released at that moment.

    Parameters
    ----------
    instance : Instance
        Rules and costs the schedule claims to follow.
    schedule : Schedule
        What is to be checked.

    Returns
    -------
    list of Violation
        Empty when feasible; otherwise the first entry is the first cause: structural faults in
        order of task, then broken rules in order of time.
    """
    if schedule.tasks != instance.tasks:
        text = f"the schedule has {schedule.tasks} tasks, the instance {instance.tasks}"
        return [Violation("shape", text)]
    if (instance.generation is None) != (schedule.generated is None):
        text = "the schedule must have generated tokens exactly where the instance has a rule"
        return [Violation("generated", text)]
    structural = _structure(instance, schedule)
    if structural:
        return structural
    check = _Check(instance, schedule)
    if instance.gpu_sharing == "exclusive":
        check.durations()
        check.gpus()
    else:
        check.found += thread_faults(instance, schedule, check.whole(check.span | check.sync))
    check.chains()
    check.releases()
    check.found += place_faults(instance, schedule)
    check.memory()
    if instance.pipeline == "1f1b":
        check.warm_up()
    if instance.memory_rule == "reference_threshold":
        check.found += threshold_faults(instance, schedule, check.whole(check.span))
    if instance.fifo:
        check.one_order()
    check.syncs()
    check.found += move_faults(instance, schedule, check.span, check.moves)
    check.found += check_tokens(instance, schedule)
    return sorted(check.found, key=lambda v: (v.time_s, v.task, v.stage, v.rule))


def _wanted(instance: Instance, task: int, node: int) -> list[tuple[int, int, int]]:
    if instance.generation is not None and instance.workload.is_inference[task]:
        return []
    stages = range(instance.cluster.stages)
    if not instance.workload.is_training[task]:
        return [(FORWARD, s, 0) for s in stages]
    parts = range(instance.micro_batches)
    update = instance.costs.closing_s[instance.cluster.node_class[node]]
    keys = [(phase, s, m) for phase in (FORWARD, BACKWARD) for s in stages for m in parts]
    return keys + [(UPDATE, s, 0) for s in stages if update[s] > 0]


def _structure(instance: Instance, schedule: Schedule) -> list[Violation]:
    found = []
    rows = schedule.operations
    counts: dict[int, dict[tuple[int, int, int], int]] = defaultdict(lambda: defaultdict(int))
    for r in np.flatnonzero(rows.phase != SYNC).tolist():
        task, stage, node = int(rows.task[r]), int(rows.stage[r]), int(rows.node[r])
        counts[task][int(rows.phase[r]), stage, int(rows.micro_batch[r])] += 1
        if node != schedule.node[task]:
            text = f"task {task} runs stage {stage} on node {node}, not on {schedule.node[task]}"
            found.append(Violation("one_node", text, task, stage, node, float(rows.start_s[r])))
    why = {reason.task: reason.text for reason in end_reasons(instance, schedule)}
    for task in range(instance.tasks):
        node = int(schedule.node[task])
        if schedule.end_state[task] != 0:
            text = f"task {task} is not done: it {why[task]}"
            found.append(Violation("not_done", text, task, node=node))
            continue
        if not 0 <= node < instance.cluster.nodes:
            text = f"task {task} is on node {node} of {instance.cluster.nodes}"
            found.append(Violation("node_range", text, task, node=node))
            continue
        wanted = _wanted(instance, task, node)
        for phase, stage, part in wanted:
            times = counts[task][phase, stage, part]
            if times != 1:
                text = f"task {task} has {times} {PHASES[phase]} operations on stage {stage}, not 1"
                found.append(Violation("operations", text + _of(part), task, stage, node))
        moves = move_keys(instance, task, counts[task])
        for phase, stage, part in sorted(set(counts[task]) - set(wanted) - moves):
            text = f"task {task} has a {PHASES[phase]} on stage {stage} that does not belong to it"
            found.append(Violation("operations", text + _of(part), task, stage, node))
    found += memory_event_faults(instance, schedule)
    return sorted(found, key=lambda v: (v.task, v.stage, v.rule))


def _of(part: int) -> str:
    return f" (micro-batch {part})" if part else ""


def _named(task: int, phase: int) -> str:
    return "an iteration" if task < 0 else f"{PHASES[phase]} of task {task}"


class _Check:
    def __init__(self, instance: Instance, schedule: Schedule) -> None:
        self.instance = instance
        self.schedule = schedule
        self.made = schedule.generated
        self.found: list[Violation] = []
        o = schedule.operations
        columns = (o.task, o.phase, o.stage, o.micro_batch, o.start_s, o.end_s)
        spans = {
            (t, p, s, m): (b, e)
            for t, p, s, m, b, e in zip(*(c.tolist() for c in columns), strict=True)
        }
        self.span: dict[_Key, _Span] = {k: v for k, v in spans.items() if k[1] < SYNC}
        self.sync: dict[_Key, _Span] = {k: v for k, v in spans.items() if k[1] == SYNC}
        self.moves: dict[_Key, _Span] = {k: v for k, v in spans.items() if k[1] > SYNC}
        training = instance.workload.is_training.tolist()
        self.parts = [instance.micro_batches if trains else 1 for trains in training]
        self.kind = [int(instance.cluster.node_class[n]) for n in schedule.node]
        self.last = instance.cluster.stages - 1

    @staticmethod
    def whole(spans: dict[_Key, _Span]) -> dict[tuple[int, int, int], _Span]:
        """Leave the micro-batch out of the keys, where there is one per task."""
        return {(task, phase, stage): span for (task, phase, stage, _), span in spans.items()}

    def say(self, rule: str, text: str, task: int, stage: int, time_s: float) -> None:
        node = int(self.schedule.node[task])
        self.found.append(Violation(rule, text, task, stage, node, time_s))

    def iterations(self) -> list[tuple[int, list[float], list[float]]]:
        """Node, starts and ends by stage of every iteration of token generation."""
        if self.made is None:
            return []
        rows = self.made.iterations
        columns = (rows.node, rows.start_s, rows.end_s)
        return list(zip(*(c.tolist() for c in columns), strict=True))

    def durations(self) -> None:
        costs = self.instance.costs
        for (task, phase, stage, part), (start, end) in self.span.items():
            k = self.kind[task]
            if phase == UPDATE:
                wanted = costs.closing_s[k, stage]
            else:
                whole = costs.forward_s if phase == FORWARD else costs.backward_s
                wanted = whole[k, task, stage] / self.parts[task]
            if abs(end - start - wanted) > TOLERANCE_S:
                text = f"{PHASES[phase]} of task {task}{_of(part)} on stage {stage} takes"
                text += f" {end - start:.9g} s, expected {wanted:.9g} s"
                self.say("duration", text, task, stage, start)

    def last_end_s(self, task: int, phase: int, stage: int) -> float:
        """End of the last micro-batch of a task's phase on a stage."""
        return max(self.span[task, phase, stage, m][1] for m in range(self.parts[task]))

    def chains(self) -> None:
        flush = self.instance.pipeline == "gpipe"
        for (task, phase, stage, part), (start, _) in self.span.items():
            hop = self.instance.costs.hop_s[self.kind[task], task]
            if phase == UPDATE:
                ready = self.last_end_s(task, BACKWARD, stage)
            elif phase == FORWARD:
                if stage == 0:
                    continue
                ready = self.span[task, FORWARD, stage - 1, part][1] + hop[stage - 1]
            elif stage < self.last:
                ready = self.span[task, BACKWARD, stage + 1, part][1] + hop[stage]
            elif flush:
                ready = self.last_end_s(task, FORWARD, stage)
            else:
                ready = self.span[task, FORWARD, stage, part][1]
            late = phase == UPDATE and start > ready + TOLERANCE_S
            if start < ready - TOLERANCE_S or late:
                text = f"{PHASES[phase]} of task {task}{_of(part)} on stage {stage}"
                text += f" starts at {start:.9g} s"
                rule = "update" if phase == UPDATE else "precedence"
                order = "exactly" if phase == UPDATE else "at least"
                self.say(rule, f"{text}, expected {order} {ready:.9g} s", task, stage, start)

    def releases(self) -> None:
        own = self.instance.workload.release_s
        training = self.instance.workload.is_training
        mode = self.instance.release_mode
        given_up = dict(self.schedule.gave_way)
        previous = None
        for task in range(self.instance.tasks):
            due = float(own[task])
            if training[task] and mode != "open":
                if previous is not None:
                    event = FORWARD if mode == "async" else BACKWARD
                    let_go = self.last_end_s(previous, event, 0)
                    due = max(due, min(let_go, given_up.get(previous, let_go)))
                previous = task
            if training[task] or self.made is None:
                start = min(self.span[task, FORWARD, 0, m][0] for m in range(self.parts[task]))
            else:
                start = float(self.made.start_s[task])
            if start < due - TOLERANCE_S:
                text = f"task {task} starts at {start:.9g} s, before its release at {due:.9g} s"
                self.say("release", text, task, 0, start)
            stored = float(self.schedule.release_s[task])
            if abs(stored - due) > TOLERANCE_S:
                text = f"task {task} has the stored release {stored:.9g} s, expected {due:.9g} s"
                self.say("stored_release", text, task, 0, start)

    def gpus(self) -> None:
        queues: dict[tuple[int, int], list[tuple[float, float, int, int]]] = defaultdict(list)
        for (task, phase, stage, _), (start, end) in (self.span | self.sync | self.moves).items():
            queues[int(self.schedule.node[task]), stage].append((start, end, task, phase))
        for node, starts, ends in self.iterations():
            for stage, (start, end) in enumerate(zip(starts, ends, strict=True)):
                queues[node, stage].append((start, end, -1, -1))
        for (node, stage), entries in queues.items():
            entries.sort()
            ahead = entries[0]
            for entry in entries[1:]:
                if entry[0] < ahead[1] - TOLERANCE_S and entry[1] > entry[0]:
                    text = (
                        f"stage {stage} of node {node} runs {_named(*entry[2:])} "
                        f"from {entry[0]:.9g} s while {_named(*ahead[2:])} "
                        f"lasts until {ahead[1]:.9g} s"
                    )
                    where = (entry[2], stage, node, entry[0])
                    self.found.append(Violation("exclusive", text, *where))
                if entry[1] > ahead[1]:
                    ahead = entry

    def memory(self) -> None:
        """Sum what is held from start to end; what ends within the tolerance is freed first."""
        changes: dict[tuple[int, int], list[tuple[float, int, float, int]]] = defaultdict(list)
        training = self.instance.workload.is_training
        for (task, phase, stage, part), (start, end) in self.span.items():
            if phase != FORWARD:
                continue
            held = float(self.instance.costs.held_bytes[self.kind[task], task, stage])
            held /= self.parts[task]
            until = self.span[task, BACKWARD, stage, part][1] if training[task] else end
            place = (int(self.schedule.node[task]), stage)
            stays = [(start, until)]
            if (task, OFFLOAD, stage, part) in self.moves:
                stays = [
                    (start, self.moves[task, OFFLOAD, stage, part][1]),
                    (self.moves[task, RELOAD, stage, part][0], until),
                ]
            for begun, over in stays:
                changes[place].append((begun, 1, held, task))
                changes[place].append((over - TOLERANCE_S, 0, -held, task))
        kv, rows = self.instance.costs.iteration, self.made
        if kv is not None and rows is not None:
            tokens = rows.iterations.kv_tokens.tolist()
            each = kv.kv_bytes_per_token[self.instance.cluster.node_class]
            for count, (node, starts, ends) in zip(tokens, self.iterations(), strict=True):
                for stage in range(self.last + 1):
                    held = float(count * each[node, stage])
                    changes[node, stage].append((starts[0], 1, held, -1))
                    changes[node, stage].append((ends[-1] - TOLERANCE_S, 0, -held, -1))
        for (node, stage), steps in changes.items():
            room = float(
                self.instance.limit_bytes[node, stage] - self.instance.resident_bytes[node, stage]
            )
            used = 0.0
            for time_s, begins, held, task in sorted(steps):
                used += held
                if begins and used > room + TOLERANCE_BYTES:
                    text = (
                        f"stage {stage} of node {node} holds {used / 2**20:.3f} MiB for tasks at "
                        f"{time_s:.9g} s, expected at most {room / 2**20:.3f} MiB"
                    )
                    self.found.append(Violation("memory", text, task, stage, node, time_s))

    def syncs(self) -> None:
        """Every n-th trained task sends weights, or a synchronisation after it on its node does."""
        rule = self.instance.weight_sync
        due: dict[int, tuple[float, int]] = {}
        if rule is not None:
            training = self.instance.workload.is_training
            ends = sorted(
                (max(e for (t, _, _, _), (_, e) in self.span.items() if t == task), task)
                for task in np.flatnonzero(training).tolist()
                if int(self.schedule.node[task]) not in rule.serving
            )
            due = {t: (e, t) for e, t in ends[rule.every - 1 :: rule.every]}
        for (task, _, stage, _), (start, end) in self.sync.items():
            if task not in due or rule is None:
                text = f"task {task} sends weights, which it does not set off"
                self.say("sync", text, task, stage, start)
            elif (
                stage != self.last
                or start < due[task][0] - TOLERANCE_S
                or abs(end - start - rule.seconds) > TOLERANCE_S
            ):
                text = f"weights are sent on stage {stage} from {start:.9g} s to {end:.9g} s"
                wanted = f"{rule.seconds:.9g} s on stage {self.last} from {due[task][0]:.9g} s on"
                self.say("sync", f"{text}, expected {wanted}", task, stage, start)
        for time_s, task in due.values():
            node = self.schedule.node[task]
            if not any(
                start >= time_s - TOLERANCE_S and self.schedule.node[t] == node
                for (t, _, _, _), (start, _) in self.sync.items()
            ):
                text = f"node {node} does not send weights after task {task}"
                self.say("sync", text, task, self.last, time_s)

    def warm_up(self) -> None:
        """1F1B: at most S − s micro-batches of a task between forward and backward on stage s."""
        for task, parts in enumerate(self.parts):
            if not self.instance.workload.is_training[task]:
                continue
            for stage in range(self.last + 1):
                spans = [
                    (self.span[task, FORWARD, stage, m][0], self.span[task, BACKWARD, stage, m][1])
                    for m in range(parts)
                ]
                limit = self.last + 1 - stage
                for start, _ in spans:
                    count = sum(b <= start + TOLERANCE_S < e for b, e in spans)
                    if count > limit:
                        text = f"task {task} has {count} micro-batches under way on stage {stage}"
                        self.say("warm_up", f"{text}, expected {limit}", task, stage, start)
                        break

    def one_order(self) -> None:
        for node in range(self.instance.cluster.nodes):
            here = [t for t in range(self.instance.tasks) if self.schedule.node[t] == node]
            here = [t for t in here if (t, FORWARD, 0, 0) in self.span]
            items = [(t, m) for t in here for m in range(self.parts[t])]
            order = sorted(items, key=lambda i: self.span[i[0], FORWARD, 0, i[1]][0])
            for stage in range(1, self.last + 1):
                for (ahead, one), (task, other) in pairwise(order):
                    start = self.span[task, FORWARD, stage, other][0]
                    if start < self.span[ahead, FORWARD, stage, one][0] - TOLERANCE_S:
                        text = f"task {task} overtakes task {ahead} on stage {stage}"
                        self.say("fifo", text, task, stage, start)
