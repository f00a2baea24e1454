"""Weight synchronisation: what triggers it, what it blocks, and what a validator says of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import instances
from test_engine import build, run, starts

from experiments.gantt import plot_gantt
from experiments.perfetto import perfetto_trace
from lemix_opt import Instance, LemixError, Schedule, Trace, WeightSync, replay, simulate, validate
from lemix_opt.errors import FieldError, UnsupportedError
from lemix_opt.graph import critical_path
from lemix_opt.policy import FixedAssignment
from lemix_opt.schedule import SYNC
from lemix_opt.weight_sync import published_every, published_seconds
from solvers import solve
from solvers.registry import POLICIES


def synced(every: int = 1, seconds: float = 5.0) -> tuple[Instance, Schedule]:
    """Two training tasks on node 1 and requests on both nodes; node 0 receives weights."""
    instance = build(
        [1, 1, 0, 0],
        [0.0, 0.0, 0.0, 0.0],
        nodes=2,
        gpu_order="fifo",
        weight_sync=WeightSync(every, seconds, (0,)),
    )
    return instance, run(instance, [1, 1, 0, 1])


def test_a_synchronisation_takes_the_last_stage_of_the_node_that_ends_the_task() -> None:
    instance, schedule = synced()
    begin = starts(schedule)
    assert begin[0, SYNC, 1] >= schedule.end_s()[0]
    rows = schedule.operations
    sync = rows.phase == SYNC
    assert rows.node[sync].tolist() == [1, 1]
    assert rows.stage[sync].tolist() == [1, 1]
    assert (rows.end_s[sync] - rows.start_s[sync]).tolist() == [5.0, 5.0]
    assert validate(instance, schedule) == []


def test_every_second_task_sends_once() -> None:
    _, schedule = synced(every=2)
    assert np.count_nonzero(schedule.operations.phase == SYNC) == 1


def test_the_response_of_the_task_that_sets_it_off_does_not_contain_it() -> None:
    plain = replace(synced()[0], weight_sync=None)
    assert synced(every=2)[1].end_s()[1] == run(plain, [1, 1, 0, 1]).end_s()[1]


@settings(max_examples=150, deadline=None)
@given(instances(beyond=True, max_tasks=10), st.integers(0, 99))
def test_what_the_engine_does_is_valid(instance: Instance, seed: int) -> None:
    schedule = simulate(instance, POLICIES.create("random"), seed=seed)
    if schedule.complete:
        assert validate(instance, schedule) == []


def changed(schedule: Schedule, **columns: np.ndarray) -> Schedule:
    return replace(schedule, operations=replace(schedule.operations, **columns))


def test_a_validator_sees_what_is_wrong() -> None:
    instance, schedule = synced()
    rows = schedule.operations
    sync = rows.phase == SYNC
    without = replace(schedule, operations=rows.take(np.flatnonzero(~sync)))
    assert {v.rule for v in validate(instance, without)} == {"sync"}
    long = changed(schedule, end_s=np.where(sync, rows.end_s + 1, rows.end_s))
    assert "sync" in {v.rule for v in validate(instance, long)}
    early = changed(
        schedule,
        start_s=np.where(sync, 0.5, rows.start_s),
        end_s=np.where(sync, 5.5, rows.end_s),
    )
    assert {"sync", "exclusive"} <= {v.rule for v in validate(instance, early)}
    uncalled = replace(instance, weight_sync=None)
    assert {v.rule for v in validate(uncalled, schedule)} == {"sync"}


def test_charts_traces_and_the_critical_path_show_it() -> None:
    instance, schedule = synced()
    events = perfetto_trace(instance, schedule, "synthetic")["traceEvents"]
    shown = [e for e in events if e.get("cat") == "training sync"]
    assert [(e["name"], e["pid"], e["tid"], e["dur"]) for e in shown] == [
        ("S0", 1, 1, 5e6),
        ("S1", 1, 1, 5e6),
    ]
    legend = plot_gantt(instance, schedule).get_legend()
    assert legend is not None
    assert "weight sync" in [text.get_text() for text in legend.get_texts()]
    last = critical_path(instance, schedule)[-1]
    assert (last.phase, last.task, last.end_s) == (SYNC, 1, schedule.operations.end_s.max())


def test_a_replay_refuses_a_schedule_and_runs_a_policy() -> None:
    instance, schedule = synced()
    trace = Trace(instance, instance.costs, "synthetic", "by hand")
    with pytest.raises(UnsupportedError, match="weight_sync"):
        replay(trace, schedule)
    assert replay(trace, FixedAssignment((1, 1, 0, 1))).schedule == schedule


def test_the_exact_model_refuses_it() -> None:
    with pytest.raises(UnsupportedError, match="weight_sync"):
        solve(synced()[0], "cpsat")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ((0, 1.0, (0,)), "every"),
        ((1, 0.0, (0,)), "seconds"),
        ((1, 1.0, ()), "serving"),
        ((1, 1.0, (0, 0)), "serving"),
        ((1, 1.0, 3), "serving"),
        ((1, 1.0, (-1,)), "serving"),
    ],
)
def test_fields_are_checked(fields: tuple[int, float, tuple[int, ...]], said: str) -> None:
    with pytest.raises(FieldError, match=said):
        WeightSync(*fields)


@pytest.mark.parametrize("serving", [(0, 1), (2,)])
def test_some_node_of_the_cluster_must_train(serving: tuple[int, ...]) -> None:
    with pytest.raises(FieldError, match="serving"):
        build([1], [0.0], nodes=2, weight_sync=WeightSync(1, 1.0, serving))


def test_published_values() -> None:
    assert [published_every(n) for n in (0, 1, 3, 167, 500)] == [1, 1, 1, 83, 100]
    assert published_seconds("GPT-2.5B", 4) == 6.22
    with pytest.raises(LemixError, match=r"GPT-2\.5B"):
        published_seconds("GPT-2.6B", 4)
    with pytest.raises(FieldError, match="nodes"):
        published_seconds("GPT-2.5B", 5)
