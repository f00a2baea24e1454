"""The validator rule by rule and operation by operation: slow and obvious, for small schedules.

It shares no code with `lemix_opt.validation` but the type of a violation and the tolerances.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from math import inf, isfinite

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from lemix_opt.contention import Contention
from lemix_opt.end_reasons import end_reasons
from lemix_opt.generated import Generated
from lemix_opt.generation import Generation, IterationCosts
from lemix_opt.instance import Instance
from lemix_opt.schedule import (
    BACKWARD,
    DROPPED,
    FORWARD,
    OFFLOAD,
    PHASES,
    RELOAD,
    SYNC,
    UPDATE,
    Schedule,
)
from lemix_opt.validation.violation import TOLERANCE_BYTES, TOLERANCE_S, Violation

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
    if schedule.generated is not None:
        rows = schedule.generated.iterations
        if rows.start_s.shape[1] != instance.cluster.stages:
            text = f"iterations run on {rows.start_s.shape[1]} stages, "
            return [Violation("iterations", text + f"expected {instance.cluster.stages}")]
        for row, node in enumerate(rows.node.tolist()):
            if node >= instance.cluster.nodes:
                text = f"iteration {row} is on node {node} of {instance.cluster.nodes}"
                start = float(min(rows.start_s[row]))
                return [Violation("iterations", text, node=node, time_s=start)]
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
    return sorted(check.found, key=lambda v: (v.time_s, v.task, v.stage, v.rule, v.message))


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
    for r in range(rows.rows):
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
        sent = {key: times for key, times in counts[task].items() if key[0] == SYNC}
        if sum(sent.values()) > 1:
            text = f"task {task} sends weights {sum(sent.values())} times, not once"
            stage = min(stage for _, stage, _ in sent)
            found.append(Violation("operations", text, task, stage, node))
        may = {(SYNC, stage, 0) for stage in range(instance.cluster.stages)}
        may |= set(wanted) | move_keys(instance, task, counts[task])
        for phase, stage, part in sorted(set(counts[task]) - may):
            text = f"task {task} has a {PHASES[phase]} on stage {stage} that does not belong to it"
            found.append(Violation("operations", text + _of(part), task, stage, node))
    found += memory_event_faults(instance, schedule)
    return sorted(found, key=lambda v: (v.task, v.stage, v.rule, v.message))


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


ThreeSpans = dict[tuple[int, int, int], tuple[float, float]]
"""Start and end in seconds by task, phase and stage."""


def thread_faults(instance: Instance, schedule: Schedule, spans: ThreeSpans) -> Iterator[Violation]:
    """Check a schedule under `gpu_sharing="reference_threads"`.

    A lane of a GPU runs one operation at a time; a training task keeps the last stage's forward
    lane until all its operations have ended; and every operation does its work, the overlap with
    the other lane counting less by the contention's factor.
    """
    last = instance.cluster.stages - 1
    slow = instance.contention or Contention()
    own_end: dict[int, float] = defaultdict(float)
    for (task, phase, _), (_, end) in spans.items():
        if phase != SYNC:
            own_end[task] = max(own_end[task], end)
    lanes: dict[tuple[int, int, bool], list[tuple[float, float, int, int]]] = defaultdict(list)
    for (task, phase, stage), (start, end) in spans.items():
        node = int(schedule.node[task])
        lanes[node, stage, phase in (FORWARD, SYNC)].append((start, end, task, phase))
    for (node, stage, forwards), entries in lanes.items():
        yield from _work_faults(
            instance,
            entries,
            lanes.get((node, stage, not forwards), []),
            slow.forward if forwards else slow.backward,
            (node, stage),
        )
        blocked = -1.0
        for start, end, task, phase in sorted(entries):
            if start < blocked - TOLERANCE_S and end > start:
                text = (
                    f"stage {stage} of node {node} starts {PHASES[phase]} of task {task} at "
                    f"{start:.9g} s, but its thread is taken until {blocked:.9g} s"
                )
                yield Violation("exclusive", text, task, stage, node, start)
            trains = bool(instance.workload.is_training[task])
            keeps = phase == FORWARD and stage == last and trains
            blocked = max(blocked, own_end[task] if keeps else end)


def _work_faults(
    instance: Instance,
    entries: list[tuple[float, float, int, int]],
    others: list[tuple[float, float, int, int]],
    factor: float,
    gpu: tuple[int, int],
) -> Iterator[Violation]:
    """Compare the work that every operation of a lane did with what it takes alone."""
    node, stage = gpu
    kind, costs = int(instance.cluster.node_class[node]), instance.costs
    for start, end, task, phase in entries:
        if phase == SYNC:
            continue
        if phase == UPDATE:
            wanted = float(costs.closing_s[kind, stage])
        else:
            seconds = costs.forward_s if phase == FORWARD else costs.backward_s
            wanted = float(seconds[kind, task, stage])
        beside = sum(
            max(0.0, min(end, e) - max(start, b)) for b, e, _, other in others if other != SYNC
        )
        work = end - start - beside + beside / factor
        if abs(work - wanted) > TOLERANCE_S:
            text = (
                f"{PHASES[phase]} of task {task} on stage {stage} does {work:.9g} s of work in "
                f"{end - start:.9g} s, {beside:.9g} s of them beside another operation"
            )
            yield Violation(
                "duration", f"{text}, expected {wanted:.9g} s", task, stage, node, start
            )


def threshold_faults(
    instance: Instance, schedule: Schedule, spans: ThreeSpans
) -> Iterator[Violation]:
    """Check that every forward and backward starts with use at most at the threshold.

    What begins at the same moment is not counted: its order is not in the schedule.
    """
    kind = instance.cluster.node_class
    training = instance.workload.is_training
    holds: dict[tuple[int, int], list[tuple[float, float, float]]] = defaultdict(list)
    for (task, phase, stage), (start, end) in spans.items():
        if phase == FORWARD:
            node = int(schedule.node[task])
            until = spans[task, BACKWARD, stage][1] if training[task] else end
            held = float(instance.costs.held_bytes[kind[node], task, stage])
            holds[node, stage].append((start, until, held))
    for (task, phase, stage), (start, _) in spans.items():
        if phase not in (FORWARD, BACKWARD):
            continue
        node = int(schedule.node[task])
        used = float(instance.resident_bytes[node, stage]) + sum(
            held
            for begun, until, held in holds[node, stage]
            if begun < start - TOLERANCE_S and until > start + TOLERANCE_S
        )
        limit = float(instance.capacity_bytes[node, stage])
        if used > limit + TOLERANCE_BYTES:
            text = (
                f"{PHASES[phase]} of task {task} starts on stage {stage} of node {node} with "
                f"{used / 2**20:.3f} MiB in use, expected at most {limit / 2**20:.3f} MiB"
            )
            yield Violation("threshold", text, task, stage, node, start)


Spans = dict[tuple[int, int, int, int], tuple[float, float]]
"""Start and end in seconds by task, phase, stage and micro-batch."""


def move_keys(
    instance: Instance, task: int, counts: dict[tuple[int, int, int], int]
) -> set[tuple[int, int, int]]:
    """Return phase, stage and micro-batch of a task's moves that come in pairs, as they may."""
    if not (instance.waiting.offload_bytes_per_s and instance.workload.is_training[task]):
        return set()
    return {
        (phase, stage, 0)
        for stage in range(instance.cluster.stages)
        for phase in (OFFLOAD, RELOAD)
        if counts.get((OFFLOAD, stage, 0)) == counts.get((RELOAD, stage, 0)) == 1
    }


def move_faults(
    instance: Instance, schedule: Schedule, spans: Spans, moves: Spans
) -> Iterator[Violation]:
    """Check that moves take bytes / rate, lie between forward and backward, and lead to it."""
    for (task, phase, stage, part), (start, end) in moves.items():
        node = int(schedule.node[task])
        kind = int(instance.cluster.node_class[node])
        held = float(instance.costs.held_bytes[kind, task, stage])
        wanted = held / instance.waiting.offload_bytes_per_s
        what = f"{PHASES[phase]} of task {task} on stage {stage}"
        if abs(end - start - wanted) > TOLERANCE_S:
            text = f"{what} takes {end - start:.9g} s, expected {wanted:.9g} s"
            yield Violation("duration", text, task, stage, node, start)
        if phase == OFFLOAD:
            after_s = spans[task, FORWARD, stage, part][1]
        else:
            after_s = moves[task, OFFLOAD, stage, part][1]
            backward_s = spans[task, BACKWARD, stage, part][0]
            if abs(backward_s - end) > TOLERANCE_S:
                text = f"{what} ends at {end:.9g} s, but its backward starts at {backward_s:.9g} s"
                yield Violation("move", text, task, stage, node, end)
        if start < after_s - TOLERANCE_S:
            text = f"{what} starts at {start:.9g} s, expected at least {after_s:.9g} s"
            yield Violation("move", text, task, stage, node, start)


def memory_event_faults(instance: Instance, schedule: Schedule) -> Iterator[Violation]:
    """Check that out-of-memory events and dropped tasks belong to each other, one to one.

    An event is on the task's node, not before its release, and no operation of the task starts
    after it.
    """
    if not schedule.out_of_memory and not (schedule.end_state == DROPPED).any():
        return
    nodes, stages = instance.cluster.nodes, instance.cluster.stages
    starts = _last_starts(schedule)
    seen: set[int] = set()
    for row, (task, stage, node, time_s) in enumerate(schedule.out_of_memory):
        text = ""
        if not 0 <= task < instance.tasks:
            text = f"is of task {task}, expected one of {instance.tasks} tasks"
        elif task in seen:
            text = f"is a second one of task {task}, expected one per task"
        elif schedule.end_state[task] != DROPPED:
            text = f"is of task {task}, which is not dropped"
        elif not (0 <= node < nodes and node == schedule.node[task]):
            text = f"of task {task} is on node {node}, expected {schedule.node[task]}"
        elif not 0 <= stage < stages:
            text = f"of task {task} is on stage {stage}, expected one of {stages} stages"
        elif not isfinite(time_s):
            text = f"of task {task} is at {time_s} s, expected a finite time"
        elif time_s < schedule.release_s[task] - TOLERANCE_S:
            release = f"its release at {schedule.release_s[task]:.9g} s"
            text = f"of task {task} is at {time_s:.9g} s, before {release}"
        elif time_s < starts.get(task, -inf) - TOLERANCE_S:
            text = f"of task {task} is at {time_s:.9g} s, but it starts an operation at"
            text += f" {starts[task]:.9g} s"
        if text:
            text = f"out-of-memory event {row} {text}"
            at = time_s if isfinite(time_s) else 0.0
            yield Violation("out_of_memory", text, task, stage, node, at)
        seen.add(task)
    for task in (schedule.end_state == DROPPED).nonzero()[0].tolist():
        if task not in seen:
            text = f"task {task} is dropped without an out-of-memory event"
            yield Violation("out_of_memory", text, task, node=int(schedule.node[task]))


def _last_starts(schedule: Schedule) -> dict[int, float]:
    """Last start of every dropped task's own operations in seconds."""
    rows = schedule.operations
    mine = (schedule.end_state[rows.task] == DROPPED) & (rows.phase != SYNC)
    found: dict[int, float] = {}
    for task, start in zip(rows.task[mine].tolist(), rows.start_s[mine].tolist(), strict=True):
        found[task] = max(start, found.get(task, start))
    return found


def place_faults(instance: Instance, schedule: Schedule) -> Iterator[Violation]:
    """Check when deferred training tasks gave up their place in the closed loop.

    That is at or after the task's own release, at or before its start, at most once, and only
    where another training task waits behind it.
    """
    if not schedule.gave_way:
        return
    loop = instance.workload.is_training.nonzero()[0].tolist()
    waited_for = set(loop[:-1]) if instance.release_mode != "open" else set()
    starts = schedule.start_s()
    seen: set[int] = set()
    for task, time_s in schedule.gave_way:
        text = ""
        if task not in waited_for:
            text = "has no place in the closed loop that another task waits for"
        elif task in seen:
            text = "gives way a second time"
        elif time_s < schedule.release_s[task] - TOLERANCE_S:
            text = f"gives way at {time_s:.9g} s, before its release at"
            text += f" {schedule.release_s[task]:.9g} s"
        elif time_s > starts[task] + TOLERANCE_S:
            text = f"gives way at {time_s:.9g} s, after its start at {starts[task]:.9g} s"
        if text:
            yield Violation("gave_way", f"task {task} {text}", task, 0, time_s=time_s)
        seen.add(task)


_COUNTS = ("prefills", "prefill_tokens", "prefill_pairs", "decodes", "context_tokens", "kv_tokens")


def check_tokens(instance: Instance, schedule: Schedule) -> list[Violation]:
    """Check the generated part of a schedule whose tasks are all done.

    Parameters
    ----------
    instance : Instance
        Rule of generation and costs of iterations.
    schedule : Schedule
        What is to be checked; its generated part must be there.

    Returns
    -------
    list of Violation
        Empty when it follows the rule.
    """
    rule, costs, made = instance.generation, instance.costs.iteration, schedule.generated
    if rule is None or costs is None or made is None:
        return []
    check = _Tokens(instance, schedule, rule, costs, made)
    check.durations()
    check.requests()
    for node in range(instance.cluster.nodes):
        check.one_at_a_time(node)
        check.batches(node)
    return check.found


class _Tokens:
    def __init__(
        self,
        instance: Instance,
        schedule: Schedule,
        rule: Generation,
        costs: IterationCosts,
        made: Generated,
    ) -> None:
        self.instance, self.schedule = instance, schedule
        self.rule, self.costs, self.made = rule, costs, made
        self.rows = made.iterations
        self.found: list[Violation] = []

    def say(self, name: str, text: str, row: int, stage: int = 0) -> None:
        start, node = float(self.rows.start_s[row, stage]), int(self.rows.node[row])
        text = f"iteration {row} on node {node} {text}"
        self.found.append(Violation(name, text, stage=stage, node=node, time_s=start))

    def first(self, name: str, wrong: BoolArray, rows: IntArray, say: str) -> None:
        """Name the first of the given rows that is wrong."""
        if wrong.any():
            self.say(name, say, int(rows[int(np.argmax(wrong))]))

    def durations(self) -> None:
        rows, costs = self.rows, self.costs
        kind = self.instance.cluster.node_class[rows.node]
        for stage in range(rows.start_s.shape[1]):
            wanted = costs.base_s[kind, stage]
            for coefficient, amount in (
                (costs.per_prefill_token_s, rows.prefill_tokens),
                (costs.per_prefill_pair_s, rows.prefill_pairs),
                (costs.per_decode_s, rows.decodes),
                (costs.per_context_token_s, rows.context_tokens),
                (costs.per_mixed_decode_s, rows.decodes * (rows.prefill_tokens > 0)),
                (costs.per_mixed_context_token_s, rows.context_tokens * (rows.prefill_tokens > 0)),
            ):
                wanted = wanted + coefficient[kind, stage] * amount
            for k in np.unique(kind).tolist() if costs.token_knots.size else ():
                mine = kind == k
                new = (rows.prefill_tokens + rows.decodes)[mine]
                wanted[mine] += _on_curve(costs.token_knots, costs.token_s[k, stage], new)
            took = rows.end_s[:, stage] - rows.start_s[:, stage]
            wrong = np.abs(took - wanted) > TOLERANCE_S
            if wrong.any():
                row = int(np.argmax(wrong))
                text = f"takes {took[row]:.9g} s on stage {stage}, expected {wanted[row]:.9g} s"
                self.say("duration", text, row, stage)
            if stage:
                ready = rows.end_s[:, stage - 1] + costs.hop_s[kind, stage - 1]
                early = rows.start_s[:, stage] < ready - TOLERANCE_S
                if early.any():
                    row = int(np.argmax(early))
                    text = f"starts on stage {stage} before {ready[row]:.9g} s"
                    self.say("precedence", text, row, stage)

    def requests(self) -> None:
        work, made, rule = self.instance.workload, self.made, self.rule
        for task in np.flatnonzero(work.is_inference).tolist():
            wanted = int(work.output_tokens[task])
            found = int(made.tokens[task])
            start, first, last = (
                float(column[task])
                for column in (made.start_s, made.first_token_s, made.last_token_s)
            )
            if rule.rule == "reference":
                good = 1 <= found <= max(wanted, rule.least_tokens)
            else:
                good = found == wanted
            text = ""
            if not good:
                text = f"request {task} has {found} tokens, expected {wanted}"
            elif not start < first <= last:
                text = f"request {task} starts at {start:.9g} s, has its first token at "
                text += f"{first:.9g} s and its last at {last:.9g} s"
            if text:
                node = int(self.schedule.node[task])
                self.found.append(Violation("tokens", text, task, 0, node, start))

    def one_at_a_time(self, node: int) -> None:
        mine = np.flatnonzero(self.rows.node == node)
        early = self.rows.start_s[mine[1:], 0] < self.rows.end_s[mine[:-1], -1] - TOLERANCE_S
        text = "starts before the one ahead of it has ended"
        self.first("one_iteration", early, mine[1:], text)

    def batches(self, node: int) -> None:
        rows, rule, made = self.rows, self.rule, self.made
        mine = np.flatnonzero(rows.node == node)
        together = (rows.prefills + rows.decodes)[mine]
        self.first("batch_cap", together > rule.batch_cap, mine, f"holds over {rule.batch_cap}")
        if rule.chunk_tokens is not None:
            tokens = (rows.prefill_tokens + rows.decodes)[mine]
            text = f"has over {rule.chunk_tokens} tokens"
            self.first("chunk", tokens > rule.chunk_tokens, mine, text)
        serves = self.instance.workload.is_inference & (self.schedule.node == node)
        tasks = np.flatnonzero(serves)
        if not tasks.size:
            return
        ends = rows.end_s[mine, -1]
        first, last = (
            self._places(ends, column[tasks]) for column in (made.first_token_s, made.last_token_s)
        )
        if min(first.min(), last.min()) < 0:
            task = int(tasks[np.argmax((first < 0) | (last < 0))])
            text = f"a token of request {task} does not come with the end of an iteration"
            self.found.append(Violation("tokens", text, task, 0, node))
            return
        spare = last - first + 1 - made.tokens[tasks]
        again = made.preemptions[tasks]
        wrong = (spare < 0) | ((spare > 0) & (again == 0))
        if wrong.any():
            task = int(tasks[np.argmax(wrong)])
            text = f"request {task} has {made.tokens[task]} tokens, not one per iteration"
            self.found.append(Violation("tokens", text, task, 0, node))
        elif not again.any() and rule.chunk_tokens is None:
            prompt = self.instance.workload.prompt_tokens[tasks]
            padded = rule.rule == "reference"
            wanted = (_padded if padded else _hybrid)(mine.size, prompt, first, last)
            for name, column in zip(_COUNTS, wanted, strict=True):
                differs = getattr(rows, name)[mine] != column
                self.first("batch", differs, mine, f"has wrong {name.replace('_', ' ')}")

    @staticmethod
    def _places(ends: FloatArray, times: FloatArray) -> IntArray:
        """Return which iteration ends at each time, −1 where none does."""
        at = np.clip(np.searchsorted(ends, times - TOLERANCE_S), 0, max(ends.size - 1, 0))
        if not ends.size:
            return np.full(times.shape, -1)
        return np.where(np.abs(ends[at] - times) <= TOLERANCE_S, at, -1)


def _on_curve(knots: FloatArray, seconds: FloatArray, tokens: IntArray) -> FloatArray:
    """Return the seconds of new tokens, along the last piece beyond the last knot."""
    found = np.interp(tokens, knots, seconds)
    if knots.size > 1:
        slope = (seconds[-1] - seconds[-2]) / (knots[-1] - knots[-2])
        found += slope * np.maximum(tokens - knots[-1], 0)
    return np.maximum(found, 0.0)


def _hybrid(count: int, prompt: IntArray, first: IntArray, last: IntArray) -> list[IntArray]:
    """Return what iterations hold: prefills at the first token, decodes from then to the last."""
    found = np.zeros((len(_COUNTS), count), dtype=np.int64)
    for length, begin, end in zip(prompt.tolist(), first.tolist(), last.tolist(), strict=True):
        found[:3, begin] += (1, length, length * length)
        found[3, begin + 1 : end + 1] += 1
        context = length + np.arange(end + 1 - begin)
        found[4, begin + 1 : end + 1] += context[1:]
        found[5, begin : end + 1] += context
    return list(found)


def _padded(count: int, prompt: IntArray, first: IntArray, last: IntArray) -> list[IntArray]:
    """Return what iterations hold that prefill all rows at the longest length."""
    rows, longest = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for length, begin, end in zip(prompt.tolist(), first.tolist(), last.tolist(), strict=True):
        rows[begin : end + 1] += 1
        own = length + np.arange(end + 1 - begin)
        longest[begin : end + 1] = np.maximum(longest[begin : end + 1], own)
    none = np.zeros(count, dtype=np.int64)
    return [rows, rows * longest, rows * longest * longest, none, none, none]
