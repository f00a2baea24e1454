"""A slow, plain check of what a schedule needs to be executed again."""

from __future__ import annotations

from lemix_opt.errors import FieldError
from lemix_opt.instance import Instance
from lemix_opt.schedule import BACKWARD, DONE, FORWARD, PHASES, UPDATE, Schedule


def chain_of(training: bool, stages: int) -> list[tuple[int, int]]:
    """Return phase and stage of an item's operations in the order in which they must run."""
    down = [(FORWARD, s) for s in range(stages)]
    return down + [(BACKWARD, s) for s in range(stages - 1, -1, -1)] * training


def slow_check(instance: Instance, plan: Schedule) -> None:
    """Raise `FieldError` unless every item ran a beginning of its chain, done ones all of it."""
    if plan.tasks != instance.tasks:
        raise FieldError(f"{plan.tasks} tasks", where="schedule", expected=f"{instance.tasks}")
    nodes, stages = instance.cluster.nodes, instance.cluster.stages
    for task, node in enumerate(plan.node.tolist()):
        if node >= nodes:
            raise FieldError(f"{node}", where=f"node[{task}]", expected=f"a node below {nodes}")
    o = plan.operations
    ran: list[set[tuple[int, int, int]]] = [set() for _ in range(instance.tasks)]
    training = instance.workload.is_training.tolist()
    parts = [instance.micro_batches if trains else 1 for trains in training]
    columns = (o.task, o.phase, o.stage, o.micro_batch, o.node)
    for row, (i, phase, s, part, node) in enumerate(
        zip(*(c.tolist() for c in columns), strict=True)
    ):
        where = f"operations[{row}]"
        if node != plan.node[i]:
            expected = f"{plan.node[i]} as in node[{i}]"
            raise FieldError(f"node {node}", where=where, expected=expected)
        if s >= stages or part >= (1 if phase == UPDATE else parts[i]):
            expected = f"a stage below {stages} and a micro-batch below {parts[i]}, 0 for updates"
            raise FieldError(f"stage {s}, micro-batch {part}", where=where, expected=expected)
        if (phase, s, part) in ran[i]:
            text = f"a second {PHASES[phase]} of task {i} on stage {s}"
            raise FieldError(text, where=where, expected="one for every micro-batch")
        ran[i].add((phase, s, part))
    for i, done in enumerate((plan.end_state == DONE).tolist()):
        chain = chain_of(training[i], stages)
        if not _runs_a_beginning(ran[i], chain, parts[i], done, instance.pipeline == "gpipe"):
            names = ", ".join(f"{PHASES[phase]} {s}" for phase, s, _ in sorted(ran[i])) or "nothing"
            raise FieldError(
                f"task {i} runs {names}",
                where="schedule.operations",
                expected="every operation of a done task, a beginning of the chain of any other",
            )


def _runs_a_beginning(
    ran: set[tuple[int, int, int]],
    chain: list[tuple[int, int]],
    parts: int,
    done: bool,
    flushes: bool,
) -> bool:
    """Whether what ran of a task has all that it waits for, and all of it if it is done."""
    last = max(s for _, s in chain)
    for phase, s, _ in ran:
        awaited = BACKWARD if phase == UPDATE else FORWARD
        if (phase == UPDATE or (flushes and phase == BACKWARD and s == last)) and not all(
            (awaited, s, m) in ran for m in range(parts)
        ):
            return False
    for part in range(parts):
        own = {(phase, s) for phase, s, m in ran if m == part and phase != UPDATE}
        if not set(chain[: len(own)]) <= own or (done and len(own) < len(chain)):
            return False
    return True
