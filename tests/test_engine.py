"""The engine on schedules worked out by hand, one rule at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from lemix_opt import Assign, Cluster, Costs, Defer, Event, Instance, Schedule, Workload
from lemix_opt.engine import simulate
from lemix_opt.errors import LemixError
from lemix_opt.policy import FixedAssignment

F, B, U = 0, 1, 2


def build(
    kind: list[int],
    release_s: list[float],
    *,
    nodes: int = 1,
    stages: int = 2,
    forward: Any = 2.0,
    backward: Any = 4.0,
    held: Any = 0.0,
    memory: float = 10.0,
    update: float = 0.0,
    hop: float = 0.0,
    **rules: Any,
) -> Instance:
    shape = (1, len(kind), stages)

    def spread(value: Any) -> np.ndarray:
        value = np.asarray(value, dtype=float)
        return np.broadcast_to(value[None, :, None] if value.ndim == 1 else value, shape)

    costs = Costs(spread(forward), spread(backward), spread(held), 0.0, update, hop)
    return Instance(Cluster(nodes, stages, memory), Workload(kind, release_s, 1, 8), costs, **rules)


def run(instance: Instance, node: list[int] | None = None, **kw: Any) -> Schedule:
    where = node or [0] * instance.tasks
    return simulate(instance, FixedAssignment(tuple(where)), **kw)


def starts(schedule: Schedule) -> dict[tuple[int, int, int], float]:
    o = schedule.operations
    return {
        (int(t), int(p), int(s)): float(b)
        for t, p, s, b in zip(o.task, o.phase, o.stage, o.start_s, strict=True)
    }


def test_a_training_task_goes_down_and_up_the_pipeline_with_hops_and_updates() -> None:
    schedule = run(build([1], [1.0], hop=0.5, update=3.0))
    assert starts(schedule) == {
        (0, F, 0): 1.0,
        (0, F, 1): 3.5,
        (0, B, 1): 5.5,
        (0, U, 1): 9.5,
        (0, B, 0): 10.0,
        (0, U, 0): 14.0,
    }
    assert schedule.end_s().tolist() == [17.0]


@pytest.mark.parametrize(("mode", "second"), [("async", 2.0), ("sync", 12.0), ("open", 0.0)])
def test_release_modes(mode: str, second: float) -> None:
    schedule = run(build([1, 1], [0.0, 0.0], nodes=2, release_mode=mode), [0, 1])
    assert schedule.release_s.tolist() == [0.0, second]
    assert starts(schedule)[1, F, 0] == second


def test_reserve_idles_rather_than_delay_a_backward() -> None:
    # Backward of task 0 is owed on stage 0 at 8; the forward released at 7 would end at 9.
    rules = {"reserve": 12.0, "backward_first": 7.0, "fifo": 7.0, "task_id": 7.0}
    for order, begin in rules.items():
        schedule = run(build([1, 0], [0.0, 7.0], gpu_order=order))
        assert starts(schedule)[1, F, 0] == begin, order


def test_reserve_lets_a_forward_through_that_fits() -> None:
    assert starts(run(build([1, 0], [0.0, 6.0])))[1, F, 0] == 6.0


def test_task_id_overtakes_and_fifo_does_not() -> None:
    kind, release = [1, 0, 0], [2.0, 0.0, 1.0]
    kw: dict[str, Any] = {"stages": 1, "forward": 4.0, "backward": 1.0}
    by_id = starts(run(build(kind, release, gpu_order="task_id", **kw)))
    by_time = starts(run(build(kind, release, gpu_order="fifo", **kw)))
    assert by_id[0, F, 0] == 4.0
    assert by_time[2, F, 0] == 4.0


@pytest.mark.parametrize(("order", "third"), [("backward_first", 2.0), ("fifo", 12.0)])
def test_a_forward_that_waits_for_memory_holds_the_queue_only_under_fifo(
    order: str, third: float
) -> None:
    # Task 1 needs the memory that task 0 holds until 12; task 2 needs little.
    instance = build(
        [1, 0, 0], [0.0, 1.0, 1.0], held=[8.0, 5.0, 1.0], gpu_order=order, backward=4.0
    )
    begin = starts(run(instance))
    assert begin[1, F, 0] >= 12.0
    assert begin[2, F, 0] == (third if order == "backward_first" else 14.0)


def test_the_fifo_option_keeps_one_order_on_all_stages() -> None:
    held = np.array([[[1.0, 2.0, 1.0], [1.0, 9.0, 1.0], [1.0, 1.0, 1.0]]])
    rules: dict[str, Any] = {"held": held, "forward": 1.0, "stages": 3}
    base = build([1, 0, 0], [0.0] * 3, gpu_order="backward_first", **rules)
    fifo = build([1, 0, 0], [0.0] * 3, gpu_order="backward_first", fifo=True, **rules)
    for instance, in_order in ((base, False), (fifo, True)):
        schedule = starts(run(instance))
        order = [sorted(range(3), key=lambda i: schedule[i, F, s]) for s in (0, 1)]
        assert (order[0] == order[1]) == in_order


def test_actual_costs_decide_and_a_task_that_cannot_fit_is_dropped_not_lost() -> None:
    instance = build([1, 1], [0.0, 0.0], held=1.0)
    c = instance.costs
    actual = Costs(c.forward_s * 2, c.backward_s, [[[1.0, 11.0], [1.0, 1.0]]], c.resident_bytes)
    schedule = run(instance, actual=actual)
    assert schedule.end_state.tolist() == [2, 0]
    assert schedule.out_of_memory == ((0, 1, 0, 4.0),)
    assert schedule.release_s[1] == 4.0


@dataclass(frozen=True)
class Deferring:
    """Puts task 0 off once, until an inference task is done, and keeps all events."""

    events: list[Event] = field(default_factory=list)
    keeps_place: bool = True

    def start(self, instance: Instance, rng: np.random.Generator) -> set[int]:
        return set()

    def decide(self, state: set[int], now_s: float, task: int) -> Assign | Defer:
        if task == 0 and task not in state:
            state.add(task)
            return Defer("next_inference_done", keeps_place=self.keeps_place)
        return Assign(0)

    def observe(self, state: set[int], event: Any) -> None:
        self.events.append(event)


@pytest.mark.parametrize(("keeps", "release"), [(True, 6.0), (False, 0.0)])
def test_deferred_training_holds_up_the_loop_only_if_it_keeps_its_place(
    keeps: bool, release: float
) -> None:
    instance = build([1, 1, 0], [0.0, 0.0, 0.0], nodes=1, gpu_order="backward_first")
    schedule = simulate(instance, Deferring(keeps_place=keeps))
    assert schedule.complete
    assert starts(schedule)[0, F, 0] >= 4.0
    assert schedule.release_s[1] == release


def test_events_are_observed_in_order_of_time_with_memory() -> None:
    policy = Deferring()
    schedule = simulate(build([1, 0], [0.0, 0.0], held=3.0), policy)
    times = [event.time_s for event in policy.events]
    assert times == sorted(times)
    kinds = [event.kind for event in policy.events]
    assert kinds.count("assign") == 2
    assert kinds.count("start") == kinds.count("end") == schedule.operations.rows
    first = next(event for event in policy.events if event.kind == "start")
    assert first.memory_bytes == 3.0


def test_what_is_never_taken_up_again_stays_deferred_or_unfinished() -> None:
    instance = build([1, 1], [0.0, 0.0])
    schedule = simulate(instance, Deferring())
    assert schedule.end_state.tolist() == [1, 3]
    assert np.isinf(schedule.release_s[1])


def test_answers_that_cannot_be_done_are_errors() -> None:
    with pytest.raises(LemixError, match="task 0 on node 5"):
        run(build([0], [0.0]), [5])
