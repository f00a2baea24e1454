"""The rule ``gpu_order="reserve"``: forwards do not reach into the next backward that is owed."""

from __future__ import annotations

from math import inf, isnan

from lemix_opt.engine.books import GPIPE, ONE_F_ONE_B, ORDER_RESERVE, Books, Rules
from lemix_opt.engine.jit import index, inlined
from lemix_opt.engine.parts import runs_on, task_of
from lemix_opt.engine.plain import parts_of
from lemix_opt.engine.view import View

SLACK_S = 1e-9
"""Seconds by which a forward may overlap a reservation because of floating-point noise."""

LATEST = 2.0
"""Forwards by which a request may be late and still be held back under 1F1B, on the second stage;
half as many on the third, a third on the fourth, as each stage adds to what it waits."""


@inlined
def feeds_first(rules: Rules, stage: int) -> bool:
    """Whether a task's forward goes ahead of its backward here if it was ready first.

    It does under 1F1B on the first stage: no other stage waits for a backward there, and all of
    them wait for the forward.
    """
    return stage == 0 and parts_of(rules) > 1 and rules.pipeline == ONE_F_ONE_B


@inlined
def held_until_s(view: View, rules: Rules, task: int, node: int, stage: int) -> float:
    """Return the last moment until which a forward is kept waiting for a backward that is owed.

    Without end but under 1F1B, where a GPU that waits may drain the pipeline. Forwards of training
    are not held back there, nor is any where 1F1B limits the task in flight: another micro-batch
    makes up for a delayed one. A request is, until it is late by what `LATEST` allows.
    """
    if parts_of(rules) == 1 or rules.pipeline != ONE_F_ONE_B:
        return inf
    limited = parts_of(rules) > rules.stages - stage
    # The forward of an iteration, which is formed again and again, is due at no time.
    if limited or task >= rules.tasks or view.training[task]:
        return -inf
    kind = view.node_class[node]
    due_s = view.release_s[task]
    for s in range(stage):
        due_s += view.forward_s[kind, task, s] + view.hop_s[kind, task, s]
    return float(due_s + LATEST / max(stage, 1) * view.forward_s[kind, task, stage])


@inlined
def all_forwards_end_s(
    view: View, books: Books, rules: Rules, task: int, node: int, now_s: float
) -> float:
    """Predict when the last forward of a GPipe task ends on the last stage.

    Its micro-batches follow each other on every stage; nothing else delays them.
    """
    stages, parts = rules.stages, parts_of(rules)
    kind = view.node_class[node]
    clock_s = books.clock_s
    for s in range(stages):
        clock_s[s] = now_s
    # Micro-batches keep their order, so the first ones may have passed the last stage.
    ended = books.begun_parts[task * stages + stages - 1]
    if runs_on(books, rules, task, node * stages + stages - 1):
        ended -= 1
    for item in range(task * parts + ended, task * parts + parts):
        at = books.place[item]
        begun = books.begun_s[item]
        if isnan(begun):
            begun = max(now_s, books.busy_until_s[node * stages + at], clock_s[at])
        time_s = max(now_s, begun + view.forward_s[kind, task, at] / parts)
        clock_s[at] = time_s
        for s in range(at + 1, stages):
            time_s = max(time_s + view.hop_s[kind, task, s - 1], clock_s[s])
            time_s += view.forward_s[kind, task, s] / parts
            clock_s[s] = time_s
    return float(clock_s[stages - 1])


@inlined
def owed_at_s(
    view: View, books: Books, rules: Rules, item: int, node: int, stage: int, now_s: float
) -> float:
    """Predict when an item's backward on a GPU becomes ready if nothing delays it."""
    stages = rules.stages
    kind = view.node_class[node]
    task = index(task_of(rules, item))
    share = parts_of(rules)
    backwards = books.place[item] >= stages
    at = books.place[item] - stages if backwards else books.place[item]
    if not backwards and share > 1 and rules.pipeline == GPIPE:
        if item > task * share:
            # Siblings come back in order.
            return inf
        time_s = all_forwards_end_s(view, books, rules, task, node, now_s)
        if stage == stages - 1:
            return time_s
        at = stages - 1
        time_s += view.backward_s[kind, task, at] / share
    else:
        begun = books.begun_s[item]
        if isnan(begun):
            begun = max(now_s, books.busy_until_s[node * stages + at])
        if backwards:
            time_s = max(now_s, begun + view.backward_s[kind, task, at] / share)
        else:
            time_s = max(now_s, begun + view.forward_s[kind, task, at] / share)
            for s in range(at + 1, stages):
                time_s += view.hop_s[kind, task, s - 1] + view.forward_s[kind, task, s] / share
            if stage == stages - 1:
                return time_s
            at = stages - 1
            time_s += view.backward_s[kind, task, at] / share
    for s in range(at - 1, stage, -1):
        time_s += view.hop_s[kind, task, s] + view.backward_s[kind, task, s] / share
    return time_s + view.hop_s[kind, task, stage]


@inlined
def fits_before_backwards(
    view: View, books: Books, rules: Rules, item: int, node: int, stage: int, now_s: float
) -> bool:
    """Whether a forward ends before the next backward owed on its GPU becomes ready.

    One that has been held back for long enough need not.
    """
    gpu = index(node * rules.stages + stage)
    if books.owes[gpu] == 0:
        return True
    task = index(task_of(rules, item))
    until_s = held_until_s(view, rules, task, node, stage)
    if until_s + SLACK_S < now_s:
        return True
    share = parts_of(rules) if view.training[task] else 1
    end_s = now_s + view.forward_s[view.node_class[node], task, stage] / share
    for k in range(books.owes[gpu]):
        ready_s = owed_at_s(view, books, rules, books.owed[gpu, k], node, stage, now_s)
        if end_s > ready_s + SLACK_S and ready_s <= until_s + SLACK_S:
            return False
    return True


@inlined
def stands_still(books: Books, rules: Rules, node: int) -> bool:
    """Whether nothing runs or is on its way on a node, so that waiting for a backward is vain.

    Micro-batches of two tasks may each hold back the forward whose backward the other awaits, and
    a task whose backward is owed may wait for memory that requests hold.
    """
    if rules.order != ORDER_RESERVE or books.hops[node]:
        return False
    running = 0
    for stage in range(rules.stages):
        running += books.running[node * rules.stages + stage]
    return bool(running == 0)
