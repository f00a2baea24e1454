"""Windows of the exact model give valid schedules, and large neighbourhood search small optima."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import brute_force
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_instances import (
    EVERY_TERM,
    IDLE_OBJECTIVES,
    MODES,
    REGULAR,
    random_instance,
    regular_value,
    tiny,
    unlike,
)

from lemix_opt import Cluster, Costs, Instance, Objective, Schedule, Workload
from lemix_opt.errors import FieldError, UnknownNameError
from lemix_opt.evaluation import objective_value
from lemix_opt.result import Value
from lemix_opt.validation import validate
from solvers import solve
from solvers.exact.limits import Limits
from solvers.exact.search import Found, search
from solvers.incumbent import Incumbent
from solvers.lns import window
from solvers.lns.choice import Choice
from solvers.lns.neighbourhoods import NEIGHBOURHOODS, around
from solvers.lns.scene import Scene
from solvers.lns.state import State, state_of, view_of
from solvers.lns.window import search_window
from solvers.search.plan import decoded
from solvers.search.search import Search

LEVELS = Objective(
    makespan=1,
    inference_response=2,
    late_penalty_s=3,
    lexicographic=("late", "inference_response", "makespan"),
)
WHOLE: dict[str, Any] = {"annealing": 0.1, "window": 1.0}
"""Time enough for the first window to be searched to the end, which ends the run."""
OBJECTIVES = {"regular": REGULAR, "every term": EVERY_TERM, "levels": LEVELS}


def started(instance: Instance, objective: Objective) -> tuple[Search, State]:
    """Return a search, and the state it begins with."""
    search = Search(Incumbent(instance, objective))
    search.begin()
    assert search.plan is not None
    decoded(search.work, search.board, search.plan)
    return search, State(search.plan.place, search.board.start.copy())


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(MODES),
    st.booleans(),
    st.sampled_from(sorted(NEIGHBOURHOODS)),
    st.sampled_from(sorted(OBJECTIVES)),
    st.integers(0, 4),
)
def test_every_window_gives_a_valid_schedule_that_is_no_worse(
    seed: int, mode: str, fifo: bool, name: str, terms: str, kept: int
) -> None:
    instance, objective = random_instance(seed, mode, fifo), OBJECTIVES[terms]
    search, state = started(instance, objective)
    rng = np.random.default_rng(seed)
    scene = Scene(instance, search.work, state, view_of(instance, search.data, state))
    size = min(int(rng.integers(1, 5)), instance.tasks)
    free = NEIGHBOURHOODS[name](scene, size, rng)
    assert 1 <= free.size <= size
    assert np.unique(free).size == free.size
    beside = around(scene, free, kept)
    assert not set(beside.tolist()) & set(free.tolist())
    limits = Limits(np.inf, 5.0)
    found = search_window(scene, search.data, objective, free, beside, limits, workers=1, seed=0)
    assert found.state is not None
    schedule = found.state.schedule(instance)
    assert validate(instance, schedule) == []
    before = objective_value(instance, state.schedule(instance), objective)
    after = objective_value(instance, schedule, objective)
    if found.proven:
        assert (
            np.round(np.atleast_1d(after), 6).tolist()
            <= np.round(np.atleast_1d(before), 6).tolist()
        )
    still = np.setdiff1d(np.arange(instance.tasks), np.concatenate([free, beside]))
    assert np.array_equal(found.state.place[still], state.place[still])
    assert np.array_equal(found.state.start[still], state.start[still])
    assert np.array_equal(found.state.place[beside], state.place[beside])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES), st.booleans(), st.booleans())
def test_a_window_of_all_tasks_finds_the_optimum(
    seed: int, mode: str, fifo: bool, classes: bool
) -> None:
    instance = tiny(seed, mode, fifo)
    if classes:
        instance = unlike(instance, seed)
    found = solve(instance, "lns", REGULAR, deterministic_limit=1.0, **WHOLE)
    optimum = brute_force.optimum(instance, lambda ends: regular_value(instance, ends))
    assert found.objective == pytest.approx(optimum)
    assert found.schedule is not None
    assert validate(instance, found.schedule) == []


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES), st.sampled_from(sorted(IDLE_OBJECTIVES)))
def test_terms_that_waiting_may_lower(seed: int, mode: str, terms: str) -> None:
    instance, objective = tiny(seed, mode, False, most=5, longest=2), IDLE_OBJECTIVES[terms]
    found = solve(instance, "lns", objective, deterministic_limit=1.0, **WHOLE)
    exact = solve(instance, "cpsat", objective, time_limit_s=20)
    assert found.objective == pytest.approx(exact.objective)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MODES), st.booleans())
def test_levels_agree_with_cpsat(seed: int, mode: str, fifo: bool) -> None:
    instance = tiny(seed, mode, fifo)
    found = solve(instance, "lns", LEVELS, deterministic_limit=1.0, **WHOLE)
    exact = solve(instance, "cpsat", LEVELS, time_limit_s=20)
    assert found.objective == pytest.approx(exact.objective)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(MODES),
    st.booleans(),
    st.sampled_from(sorted(NEIGHBOURHOODS)),
)
def test_every_neighbourhood_alone_improves_or_keeps(
    seed: int, mode: str, fifo: bool, name: str
) -> None:
    instance = random_instance(seed, mode, fifo)
    start = solve(instance, "mix-rr").schedule
    assert start is not None
    initial = start if not validate(instance, start) else None
    found = solve(
        instance,
        "lns",
        EVERY_TERM,
        deterministic_limit=0.2,
        initial=initial,
        neighbourhoods=(name,),
        annealing=0.0,
        kept=2,
    )
    assert found.schedule is not None
    assert validate(instance, found.schedule) == []
    if initial is not None:
        assert found.objective <= objective_value(instance, initial, EVERY_TERM)


def test_off_the_grid() -> None:
    instance = random_instance(5, "async", False)
    costs = Costs(
        instance.costs.forward_s + 0.3,
        instance.costs.backward_s + 0.2,
        instance.costs.held_bytes,
        0.0,
    )
    instance = instance.with_costs(costs)
    found = solve(instance, "lns", EVERY_TERM, deterministic_limit=0.5)
    assert found.schedule is not None
    assert validate(instance, found.schedule) == []


def test_the_same_seed_gives_the_same_schedule() -> None:
    instance = random_instance(7, "async", False)
    first, second = (
        solve(instance, "lns", EVERY_TERM, deterministic_limit=0.5, seed=3) for _ in range(2)
    )
    assert first.schedule == second.schedule
    assert first.objective == second.objective


def test_never_worse_than_the_initial_schedule() -> None:
    instance = random_instance(11, "open", False)
    good = solve(instance, "lns", EVERY_TERM, deterministic_limit=1.0, annealing=0.1)
    again = solve(
        instance, "lns", EVERY_TERM, deterministic_limit=0.01, initial=good.schedule, seed=1
    )
    assert again.objective <= good.objective


def test_an_interrupted_run_returns_the_best_so_far() -> None:
    seen: list[Value] = []

    def stop(schedule: Schedule, value: Value) -> None:
        seen.append(value)
        if len(seen) == 2:
            raise KeyboardInterrupt

    instance = random_instance(21, "async", False)
    found = solve(instance, "lns", EVERY_TERM, time_limit_s=30, on_solution=stop)
    assert found.explanation == "interrupted"
    assert found.objective == seen[-1]


def test_an_interrupted_window_counts_and_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Found:
        return replace(search(*arguments, **options), interrupted=True)

    monkeypatch.setattr(window, "search", interrupted)
    instance = random_instance(21, "async", False)
    found = solve(instance, "lns", EVERY_TERM, time_limit_s=30, annealing=0.0)
    assert found.explanation == "interrupted"
    assert found.schedule is not None
    assert validate(instance, found.schedule) == []


def test_a_schedule_on_the_grid_is_taken_as_it_is() -> None:
    """Under idleness alone, decoding might move starts that are best where they are."""
    instance = tiny(3, "open", False, most=5)
    objective = Objective(idle=1)
    exact = solve(instance, "cpsat", objective, time_limit_s=20)
    assert exact.schedule is not None
    best = Incumbent(instance, objective)
    data = Search(best).data
    state = state_of(instance, data, exact.schedule)
    assert state is not None
    assert state.schedule(instance) == exact.schedule


def test_no_tasks_and_no_room_to_spare() -> None:
    cluster = Cluster(1, 2, 2.0**20)
    none = Instance(cluster, Workload([], [], [], []), Costs(np.ones((1, 0, 2)), 0.0, 0.0, 0.0))
    assert solve(none, "lns", time_limit_s=1).schedule is not None
    tight = Instance(
        Cluster(1, 2, 1.5 * 2.0**20),
        Workload([1], [0.0], 1, 8),
        Costs([[[1, 1]]], [[[1, 1]]], 1.2 * 2.0**20, 0),
    )
    # Whole MiB would leave the task no room.
    assert solve(tight, "lns", time_limit_s=1).objective == pytest.approx(4.0)


def test_parameters_that_make_no_sense_are_refused() -> None:
    instance = random_instance(1, "open", False)
    with pytest.raises(UnknownNameError, match="Did you mean 'near'"):
        solve(instance, "lns", neighbourhoods=("neer",))
    with pytest.raises(UnknownNameError, match="Did you mean 'window'"):
        solve(instance, "lns", windows=1.0)
    with pytest.raises(FieldError, match="at least one"):
        solve(instance, "lns", neighbourhoods=())
    with pytest.raises(FieldError, match="annealing"):
        solve(instance, "lns", annealing=1.5)


def test_sizes_and_weights_follow_what_windows_bring() -> None:
    choice = Choice(("good", "bad"), tasks=20)
    rng = np.random.default_rng(0)
    assert [choice.draw(rng)] == ["good"]
    choice.learn("good", gain=5.0, spent=1.0, part=0.1, proven=True)
    assert choice.draw(rng) == "bad"
    size = choice.size["bad"]
    choice.learn("bad", gain=0.0, spent=1.0, part=0.1, proven=True)
    assert choice.size["bad"] == size + 1
    choice.learn("bad", gain=0.0, spent=1.0, part=1.0, proven=False)
    assert choice.size["bad"] == size
    drawn = [choice.draw(rng) for _ in range(200)]
    assert 0 < drawn.count("bad") < 40
