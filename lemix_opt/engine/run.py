"""`simulate`: a policy on an instance, driven through the compiled event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf, nan
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

from lemix_opt.costs import Costs
from lemix_opt.decision_clock import DecisionClock
from lemix_opt.engine.batches import batches_of
from lemix_opt.engine.books import NONE, Books, Rules, rules_of, truth_of
from lemix_opt.engine.clock import DECIDE_NS, DECISIONS
from lemix_opt.engine.codes import (
    ASK,
    BATCH,
    EVENT_FIELDS,
    EVENTS,
    TOLD_BAD_NODE,
    TOLD_BAD_TIME,
    TOLD_DROP,
    TOLD_ENDLESS,
    TOLD_FULL,
    TOLD_ITERATIONS,
    TOLD_PAUSE,
)
from lemix_opt.engine.compiled import DEFERRALS, CompiledPolicy, recorder
from lemix_opt.engine.kernel import kernel
from lemix_opt.engine.queues import LARGEST
from lemix_opt.engine.table import (
    IterationTable,
    generated_of,
    lengths_of,
    operations_of,
    rows_of,
)
from lemix_opt.engine.view import view_of
from lemix_opt.errors import FieldError, LemixError, unknown
from lemix_opt.instance import Instance
from lemix_opt.interrupt import stop_if_interrupted
from lemix_opt.policy import Assign, BatchObserved, Defer, Event, Policy
from lemix_opt.schedule import UNFINISHED, Schedule

RECORDED = 4096
"""Events kept for a policy in plain Python before they are handed over."""


def simulate(
    instance: Instance,
    policy: Policy,
    actual: Costs | None = None,
    seed: int = 0,
    clock: DecisionClock | None = None,
) -> Schedule:
    """Run a policy on an instance, event by event.

    A `lemix_opt.CompiledPolicy` runs without leaving machine code; any other policy is asked and
    told in Python and gives the same result. A policy may name the kinds of events it wants in an
    attribute ``observes``; it is told all of them otherwise. One in Python whose beliefs about
    costs change may have a method ``believed(state)``, which returns the instance with costs of
    its own that it writes to; the rules of the GPUs then go by these.

    Parameters
    ----------
    instance : Instance
        Tasks, rules and predicted costs; all that the policy is told.
    policy : Policy
        Places every task as it is released.
    actual : Costs, optional
        Seconds and bytes that really happen; the predictions come true when omitted.
    seed : int, default 0
        Seed of the generator handed to the policy.
    clock : DecisionClock, optional
        Measures the wall time of decisions.

    Returns
    -------
    Schedule
        Every task ends as done, deferred, dropped or unfinished.

    Raises
    ------
    LemixError
        If the policy answers what cannot be done.
    """
    costs = instance.costs if actual is None else actual
    if costs.forward_s.shape != instance.costs.forward_s.shape:
        raise FieldError(
            f"shape {costs.forward_s.shape}",
            where="actual.forward_s",
            expected=f"shape {instance.costs.forward_s.shape} as predicted",
        )
    if instance.generation is not None and costs.iteration is None:
        raise FieldError("None", where="actual.iteration", expected="costs of iterations")
    if (instance.tasks + instance.cluster.nodes) * instance.micro_batches >= LARGEST:
        raise FieldError(
            f"{instance.tasks} tasks in {instance.micro_batches} micro-batches",
            where="instance",
            expected=f"fewer than {LARGEST} together",
        )
    if isinstance(policy, CompiledPolicy):
        return _run_compiled(instance, policy, costs, seed, clock)
    return _run_python(instance, policy, costs, seed, clock)


def _mask(policy: Policy) -> int:
    """Return the events that a policy observes, as bits."""
    observed = getattr(policy, "observes", EVENTS)
    if isinstance(observed, str) or not isinstance(observed, Iterable):
        text = f"{observed!r:.60}"
        raise FieldError(text, where="policy.observes", expected="a tuple of kinds of events")
    kinds = set(observed) - {BATCH}
    for kind in kinds:
        if kind not in EVENTS:
            raise unknown("kind of event in policy.observes", f"{kind}", (*EVENTS, BATCH))
    return sum(1 << EVENTS.index(kind) for kind in kinds)


def _run_compiled(
    instance: Instance,
    policy: CompiledPolicy,
    costs: Costs,
    seed: int,
    clock: DecisionClock | None,
) -> Schedule:
    decide, observe = policy.functions()
    numbers = _numbers(policy.numbers(instance, np.random.default_rng(seed)))
    rules = rules_of(instance, _mask(policy), 0, clock is not None)
    run = _Run(instance, costs, rules, decide, observe, numbers, instance)
    try:
        for told in run.loop:
            if told >= 0:
                raise _no_node(told, ASK, instance.cluster.nodes)
            run.act_on(told)
    except IndexError as error:
        raise LemixError(
            f"{type(policy).__name__} reads or writes beyond an array, at {run.talk[0]:g} s",
            where="decide_function or observe_function of the policy",
            expected=f"indices within the columns of the view and the {numbers.size} numbers",
            hint="NUMBA_DISABLE_JIT=1 shows the line",
        ) from error
    if clock is not None:
        clock.add(int(run.talk[DECISIONS]), 1e-9 * run.talk.item(DECIDE_NS))
    return run.schedule()


def _numbers(given: Any) -> npt.NDArray[np.float64]:
    """Return the state of a compiled policy, whose entries machine code reads and writes."""
    right = isinstance(given, np.ndarray) and given.dtype == np.float64 and given.ndim == 1
    if not (right and given.size and given.flags.c_contiguous and given.flags.writeable):
        found = f"{given.dtype} of shape {given.shape}" if isinstance(given, np.ndarray) else given
        raise FieldError(
            f"{found!s:.60}",
            where="numbers of the policy",
            expected="a contiguous array of float64 in one dimension, with an entry for deferrals",
        )
    return given


def _believed(policy: Policy, state: Any, instance: Instance) -> Instance:
    """Return the instance that the rules of the GPUs go by: the policy's own, if it has one."""
    if not hasattr(policy, "believed"):
        return instance
    found = policy.believed(state)
    wanted = (instance.tasks, instance.cluster.nodes, instance.costs.forward_s.shape)
    has = None
    if isinstance(found, Instance):
        has = (found.tasks, found.cluster.nodes, found.costs.forward_s.shape)
    if has != wanted:
        raise FieldError(
            f"a {type(found).__name__}" if has is None else f"{has}",
            where="believed() of the policy",
            expected=f"an Instance with tasks, nodes and shape of forward_s {wanted}",
        )
    return found


def _run_python(
    instance: Instance, policy: Policy, costs: Costs, seed: int, clock: DecisionClock | None
) -> Schedule:
    # One round of the kernel adds at most a start on every GPU, the ends of all requests of the
    # running batches, and a few events more.
    each = (
        1 if instance.generation is None else 1 + min(instance.generation.batch_cap, instance.tasks)
    )
    room = RECORDED + each * instance.cluster.nodes * instance.cluster.stages + 8
    numbers = np.zeros(2 + EVENT_FIELDS * room)
    state = policy.start(instance, np.random.default_rng(seed))
    run = _Run(
        instance,
        costs,
        rules_of(instance, _mask(policy), RECORDED),
        *recorder(),
        numbers,
        _believed(policy, state, instance),
    )
    talk, observe, nodes = run.talk, policy.observe, instance.cluster.nodes
    answer = policy.decide if clock is None else clock.around(policy.decide)
    sees_batches = instance.generation is not None and BATCH in getattr(policy, "observes", ())
    for told in run.loop:
        if numbers[1]:
            _hand_over(numbers, state, observe)
        if told < 0:
            if told != TOLD_FULL:
                run.act_on(told)
            continue
        if sees_batches:
            for node in range(instance.cluster.nodes):
                lengths = lengths_of(instance, run.batches, node)
                observe(state, BatchObserved(talk.item(0), node, lengths))
        reply = answer(state, talk.item(0), told)
        if type(reply) is Assign and type(reply.node) is int and 0 <= reply.node < nodes:
            talk[1] = reply.node
        else:
            talk[1], talk[2] = _code_of(reply, told, nodes)
    _hand_over(numbers, state, observe)
    return run.schedule()


def _hand_over(numbers: npt.NDArray[np.float64], state: Any, observe: Callable[..., None]) -> None:
    """Tell a policy the recorded events, in order."""
    count = int(numbers[1])
    rows = numbers[2 : 2 + EVENT_FIELDS * count].tolist()
    for at in range(0, len(rows), EVENT_FIELDS):
        kind, time_s, task, node, phase, stage, memory = rows[at : at + EVENT_FIELDS]
        observe(
            state,
            Event(EVENTS[int(kind)], time_s, int(task), int(node), int(phase), int(stage), memory),
        )
    numbers[1] = 0


def _code_of(reply: Any, task: int, nodes: int) -> tuple[float, float]:
    """Return the kernel's code and time of an answer that is not a plain placement."""
    if isinstance(reply, Assign):
        try:
            node = index(reply.node)
        except TypeError:
            node = -1
        if not 0 <= node < nodes:
            raise _no_node(task, f"{reply.node!r:.60}", nodes)
        return node, nan
    if not isinstance(reply, Defer) or reply.until not in ("time", "next_inference_done"):
        raise LemixError(
            f"the policy answered {reply!r:.60} for task {task}",
            expected="Assign(node), Defer('time', at_s) or Defer('next_inference_done')",
        )
    code = DEFERRALS[reply.until, bool(reply.keeps_place)]
    try:
        return code, nan if reply.at_s is None else float(reply.at_s)
    except (TypeError, ValueError):
        raise LemixError(
            f"the policy put task {task} off to {reply.at_s!r:.60}", expected="seconds"
        ) from None


def _no_node(task: int, node: object, nodes: int) -> LemixError:
    return LemixError(
        f"the policy placed task {task} on node {node}",
        expected=f"a node from 0 to {nodes - 1}",
    )


class _Run:
    """One run: its books, the loop that fills them, and what comes of it."""

    def __init__(
        self,
        instance: Instance,
        costs: Costs,
        rules: Rules,
        decide: Any,
        observe: Any,
        numbers: npt.NDArray[np.float64],
        believed: Instance,
    ) -> None:
        self.instance = instance
        self.out_of_memory: list[tuple[int, int, int, float]] = []
        self.talk = np.zeros(9)
        self.rows = rows_of(instance, costs)
        self.books = _books(instance, costs, rules, self.rows)
        self.table = IterationTable(instance.tasks, instance.cluster.stages)
        shown, truth = view_of(believed), truth_of(instance, costs)
        view, truth, self.batches = batches_of(instance, costs, shown, truth)
        # The kernel counts no references: what it works on lives as long as this object.
        self.arguments = (
            view,
            shown,
            truth,
            self.books,
            self.batches,
            rules,
            decide,
            observe,
            numbers,
            self.talk,
        )
        self.loop = kernel(rules.beyond is None)(*self.arguments)

    def act_on(self, told: int) -> None:
        """Note a drop, or raise what the kernel found wrong with an answer."""
        now_s = self.talk.item(0)
        task, second, third, code = self.talk[3:7].tolist()
        if told == TOLD_DROP:
            self.out_of_memory.append((int(task), int(second), int(third), now_s))
        elif told == TOLD_ITERATIONS:
            self.table.take(self.batches, self.books)
        elif told == TOLD_BAD_NODE:
            raise _no_node(int(task), int(code), self.instance.cluster.nodes)
        elif told == TOLD_PAUSE:
            # Coming back to Python lets signals in.
            stop_if_interrupted()
        elif told == TOLD_ENDLESS:
            times, total = int(second), int(third)
            said = f"{times} times in a row" if times < total else f"{times} times"
            raise LemixError(
                f"the policy put tasks off {said}, task {int(task)} last, at {now_s:g} s",
                expected="a placement now and then, or deferrals to a time at which it changes",
            )
        elif told == TOLD_BAD_TIME:
            raise LemixError(
                f"the policy put task {int(task)} off to {None if second != second else second} s",
                expected=f"a finite time after {now_s:g} s",
            )

    def schedule(self) -> Schedule:
        """Return what was executed."""
        books, tasks = self.books, self.instance.tasks
        generated = None
        if self.instance.generation is not None:
            generated = generated_of(self.batches, self.books, self.table)
        gave_way = np.flatnonzero(np.isfinite(books.gave_way_s))
        return Schedule(
            books.node[:tasks].astype(np.int64),
            operations_of(self.instance, books, self.rows),
            books.end_state[:tasks].astype(np.int64),
            books.release_s,
            tuple(self.out_of_memory),
            generated,
            tuple(zip(gave_way.tolist(), books.gave_way_s[gave_way].tolist(), strict=True)),
        )


def _books(instance: Instance, costs: Costs, rules: Rules, rows: npt.NDArray[np.int64]) -> Books:
    work, cluster = instance.workload, instance.cluster
    tasks, gpus = instance.tasks, cluster.nodes * cluster.stages
    # The iterations of every node's batch are handled like the forwards of one more task.
    batches = 0 if instance.generation is None else cluster.nodes
    items = (tasks + batches) * instance.micro_batches
    counted = tasks * cluster.stages if instance.micro_batches > 1 else 0
    lanes = 1 + rules.threads
    timed = items if rules.timed else 0
    events = items + 3 * (tasks + batches) + 1 + timed
    slots = 1 << (lanes * gpus - 1).bit_length()
    loop = np.flatnonzero(work.is_training)
    successor = np.full(tasks, NONE, dtype=np.int32)
    own = np.ones(tasks, dtype=bool)
    if instance.release_mode != "open":
        successor[loop[:-1]] = loop[1:]
        own[loop[1:]] = False
    arrivals = np.flatnonzero(own)
    release = work.release_s[arrivals]
    if np.any(np.diff(release) < 0):
        arrivals = arrivals[np.argsort(release, kind="stable")]
    resident = costs.resident_bytes[cluster.node_class].reshape(-1).astype(np.float64)
    unused = np.full(1, NONE, dtype=np.int32)
    return Books(
        start_s=np.full(rows[-1] + batches * cluster.stages, nan),
        end_s=np.empty(rows[-1] + batches * cluster.stages),
        row=np.concatenate((rows, rows[-1] + np.arange(1, batches) * cluster.stages)),
        node=np.concatenate(
            (np.full(tasks, NONE, dtype=np.int32), np.arange(batches, dtype=np.int32))
        ),
        end_state=np.full(tasks + batches, UNFINISHED, dtype=np.int8),
        release_s=np.full(tasks, inf),
        left=np.zeros(tasks + batches, dtype=np.int32),
        successor=successor,
        arrivals=arrivals,
        ready_s=np.empty(items),
        after=np.empty(items, dtype=np.int32),
        before=np.empty(items, dtype=np.int32),
        place=np.zeros(items, dtype=np.int16),
        # An iteration that waits nowhere is not waiting.
        begun_s=np.zeros(items) if batches else np.empty(items),
        head=np.full((2, gpus), NONE, dtype=np.int32),
        tail=np.full((2, gpus), NONE, dtype=np.int32),
        running=np.zeros(lanes * gpus, dtype=np.uint8),
        busy_until_s=np.full(gpus, -inf),
        used_bytes=resident.copy(),
        holders=np.zeros(gpus, dtype=np.int64),
        turn_after=np.full(items, NONE, dtype=np.int32) if instance.fifo else unused,
        turn_last=np.full(cluster.nodes, NONE, dtype=np.int32),
        due=np.full(gpus, NONE, dtype=np.int32),
        # Stages whose update takes no time have no update operation.
        updates=np.count_nonzero(costs.closing_s > 0, axis=1),
        sync_task=np.full(cluster.nodes, NONE, dtype=np.int32),
        gpu_end_s=np.full(slots, inf),
        gpu_key=np.arange(slots, dtype=np.int64),
        first_end=_tree(slots),
        ending=np.empty(lanes * gpus, dtype=np.int32),
        wants=np.zeros(gpus, dtype=np.uint8),
        # Untouched pages cost nothing, so these have room for the worst case.
        times=np.empty(events),
        keys=np.empty(events, dtype=np.int64),
        waiting=np.empty(tasks + 1, dtype=np.int32),
        owed=np.empty((gpus, loop.size * instance.micro_batches + 1), dtype=np.int32),
        owes=np.zeros(gpus, dtype=np.int64),
        touched=np.empty(cluster.nodes, dtype=np.int64),
        is_touched=np.zeros(cluster.nodes, dtype=np.uint8),
        begun_parts=np.zeros(counted, dtype=np.int32),
        ended_parts=np.zeros(counted, dtype=np.int32),
        clock_s=np.empty(cluster.stages),
        hops=np.zeros(cluster.nodes, dtype=np.int64),
        deadline_s=np.full(timed, nan),
        look_s=np.full(timed, nan),
        alarm_s=np.full(timed, nan),
        fresh=np.zeros(timed + 1, dtype=np.int32),
        failed=np.zeros(lanes * gpus + 2, dtype=np.int32),
        taken=np.full(lanes * gpus, NONE, dtype=np.int32),
        slowed=np.zeros(gpus, dtype=np.uint8),
        overdue=np.zeros(gpus, dtype=np.uint8),
        away=np.zeros(tasks * cluster.stages * rules.offloads, dtype=np.uint8),
        gave_way_s=np.full(tasks, nan),
    )


def _tree(slots: int) -> npt.NDArray[np.int32]:
    """Return a winner tree over a power of two of slots, none of which has anything to end."""
    tree = np.zeros(2 * slots, dtype=np.int32)
    tree[slots:] = np.arange(slots)
    for at in range(slots - 1, 0, -1):
        tree[at] = tree[2 * at]
    return tree
