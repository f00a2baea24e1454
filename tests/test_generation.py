"""Token generation in the compiled engine: by hand, and equal to the slow one in every event."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_generation import slow_generate
from strategies import generating
from test_kernel import InPython, LateTurns, Whimsical

from lemix_opt import (
    BatchObserved,
    Cluster,
    Costs,
    Event,
    Generation,
    Instance,
    IterationCosts,
    Schedule,
    Workload,
    evaluate,
    simulate,
    validate,
)
from lemix_opt.errors import InfeasibleError
from lemix_opt.policy import FixedAssignment
from solvers.registry import POLICIES


class Diarist(Whimsical):
    """Keeps the batches it is told as well."""

    def observe(self, state: dict[str, Any], event: Event | BatchObserved) -> None:
        if isinstance(event, BatchObserved):
            self.diary.append(tuple(event))
        else:
            super().observe(state, event)


ALL = ("assign", "start", "end", "drop", "batch")


def others(instance: Instance, seed: int) -> Costs:
    """Draw actual costs, some of which need more memory than any GPU has."""
    rng = np.random.default_rng(seed)
    costs, iteration = instance.costs, instance.costs.iteration
    assert iteration is not None

    def spread(column: Any) -> Any:
        return column * rng.uniform(0.5, 2, column.shape)

    return replace(
        costs,
        forward_s=spread(costs.forward_s),
        backward_s=spread(costs.backward_s),
        held_bytes=costs.held_bytes + rng.integers(0, 3, costs.held_bytes.shape),
        iteration=replace(
            iteration,
            base_s=spread(iteration.base_s),
            per_decode_s=spread(iteration.per_decode_s),
            per_context_token_s=spread(iteration.per_context_token_s),
            kv_bytes_per_token=iteration.kv_bytes_per_token
            + rng.integers(0, 2, iteration.base_s.shape),
        ),
    )


def explain(fast: Schedule, slow: Schedule, instance: Instance) -> str:
    lines = [f"{instance}"]
    for part in ("operations", "generated"):
        pair = getattr(fast, part), getattr(slow, part)
        lines += [f"{k}: {getattr(pair[0], k)} {getattr(pair[1], k)}" for k in vars(pair[1])]
    return "\n".join(lines)


@settings(max_examples=300, deadline=None)
@given(generating(max_tasks=10), st.integers(0, 10**6), st.booleans())
def test_agrees_with_the_slow_engine_event_by_event(
    instance: Instance, seed: int, surprised: bool
) -> None:
    actual = others(instance, seed) if surprised else None
    fast_policy, slow_policy = Diarist(seed, ALL), Diarist(seed, ALL)
    fast = simulate(instance, fast_policy, actual=actual)
    slow = slow_generate(instance, slow_policy, actual=actual)
    assert fast == slow, explain(fast, slow, instance)
    assert fast_policy.diary == slow_policy.diary


@settings(max_examples=40, deadline=None)
@given(generating(max_tasks=40), st.sampled_from(["jsq", "lemix", "mix-rr", "least-work-left"]))
def test_agrees_with_the_slow_engine_under_known_policies(instance: Instance, name: str) -> None:
    fast = simulate(instance, POLICIES.create(name))
    slow = slow_generate(instance, POLICIES.create(name))
    assert fast == slow, explain(fast, slow, instance)


@settings(max_examples=30, deadline=None)
@given(generating(max_tasks=20))
def test_a_compiled_policy_does_the_same_in_machine_code_and_in_python(instance: Instance) -> None:
    assert simulate(instance, LateTurns()) == simulate(instance, InPython(LateTurns()))


@settings(max_examples=100, deadline=None)
@given(generating(max_tasks=10, rule="continuous"), st.integers(0, 10**6), st.booleans())
def test_every_request_that_fits_makes_all_its_tokens(
    instance: Instance, seed: int, surprised: bool
) -> None:
    actual = others(instance, seed) if surprised else None
    schedule = simulate(instance, Whimsical(seed), actual=actual)
    made, work = schedule.generated, instance.workload
    assert made is not None
    dropped = {event[0] for event in schedule.out_of_memory}
    lost = np.array([task in dropped for task in range(instance.tasks)], dtype=bool)
    assert np.array_equal(schedule.end_state == 2, lost)
    assert not np.any(schedule.end_state == 3)
    served = work.is_inference & (schedule.end_state == 0)
    assert np.array_equal(made.tokens[served], work.output_tokens[served])
    assert not made.tokens[~served].any()


@settings(max_examples=100, deadline=None)
@given(generating(max_tasks=10), st.integers(0, 10**6))
def test_schedules_pass_the_validator_and_gpu_time_adds_up(instance: Instance, seed: int) -> None:
    schedule = simulate(instance, Whimsical(seed))
    made, rows = schedule.generated, schedule.operations
    assert made is not None
    if schedule.complete and len(schedule.out_of_memory) == 0:
        # Whimsical lets training pass what it has put off; only releases know of it.
        broken = {v.rule for v in validate(instance, schedule)}
        assert broken <= {"release", "stored_release"}
    ran = made.iterations
    for node in range(instance.cluster.nodes):
        own = ran.node == node
        for stage in range(instance.cluster.stages):
            trained = (rows.node == node) & (rows.stage == stage)
            start = np.concatenate([rows.start_s[trained], ran.start_s[own, stage]])
            end = np.concatenate([rows.end_s[trained], ran.end_s[own, stage]])
            order = np.lexsort((end, start))
            gaps = start[order][1:] - end[order][:-1]
            assert np.all(gaps >= -1e-9)
            if start.size:
                busy, span = np.sum(end - start), end.max() - start.min()
                assert busy + gaps.sum() == pytest.approx(span)


def requests(
    prompts: list[int], outputs: list[int], releases: list[float] | float = 0.0, **rule: Any
) -> Instance:
    """One GPU: 1 s an iteration, 0.1 s a new token, 0.01 s a decode, a byte a token."""
    memory = rule.pop("memory_bytes", 1000.0)
    count = len(prompts)
    costs = Costs(
        np.ones((1, count, 1)),
        0.0,
        0.0,
        0.0,
        iteration=IterationCosts([[1.0]], 0.1, 0.0, 0.01, 0.0, 1.0),
    )
    times = np.full(count, releases) if isinstance(releases, float) else np.array(releases)
    workload = Workload(np.zeros(count, dtype=int), times, 1, prompts, outputs)
    return Instance(
        Cluster(1, 1, memory), workload, costs, gpu_order="fifo", generation=Generation(**rule)
    )


def run(instance: Instance) -> Schedule:
    schedule = simulate(instance, FixedAssignment((0,) * instance.tasks))
    assert schedule.generated is not None
    return schedule


def test_prefills_and_decodes_share_iterations() -> None:
    schedule = run(requests([10, 5], [3, 2], [0.0, 0.5]))
    made = schedule.generated
    assert made is not None
    # 1 + 10·0.1; then a decode beside a prefill of 5: 1 + 0.5 + 0.01; then two decodes.
    assert made.iterations.end_s[:, 0] == pytest.approx([2.0, 3.51, 4.53])
    assert made.first_token_s == pytest.approx([2.0, 3.51])
    assert made.last_token_s == pytest.approx([4.53, 4.53])
    assert made.iterations.kv_tokens.tolist() == [10, 16, 18]
    assert made.iterations.context_tokens.tolist() == [0, 11, 18]
    assert made.iterations.request_steps == 5
    score = evaluate(requests([10, 5], [3, 2], [0.0, 0.5]), schedule)
    assert (score.ttft_p50_s, score.ttft_p99_s) == pytest.approx((2.0, 3.01))
    assert score.tbt_mean_s == pytest.approx((2.53 / 2 + 1.02) / 2)
    assert (score.generated_tokens, score.preemptions, score.truncated) == (5, 0, 0)
    assert score.bubble_rate == pytest.approx(0.0)


def test_a_long_prompt_is_cut_into_chunks() -> None:
    schedule = run(requests([2, 10], [4, 1], batch_cap=2, chunk_tokens=6))
    made = schedule.generated
    assert made is not None
    # The second prompt gets what the first leaves of 6 tokens: 4, then 5, then 1.
    assert made.iterations.prefill_tokens.tolist() == [6, 5, 1, 0]
    assert made.iterations.prefill_pairs.tolist() == [4 + 16, 5 * 9, 1 * 10, 0]
    assert made.iterations.decodes.tolist() == [0, 1, 1, 1]
    assert made.first_token_s[1] == pytest.approx(1.6 + 1.51 + 1.11)


def test_the_table_of_iterations_grows_in_rows_and_width(monkeypatch: pytest.MonkeyPatch) -> None:
    # Counts need one byte at first, and pairs of the last prompt more than four.
    instance = requests([3, 400, 70_000], [9, 5, 7], [0.0, 5.0, 600.0], memory_bytes=1e9)
    slow = slow_generate(instance, FixedAssignment((0, 0, 0)))
    monkeypatch.setattr("lemix_opt.engine.batches.ROOM", 2)
    made = run(instance).generated
    assert made is not None
    assert slow.generated == made == pickle.loads(pickle.dumps(made))
    assert made.iterations.prefill_pairs.max() == 70_000**2
    assert made.iterations.node.dtype == made.iterations.kv_tokens.dtype == np.int64
    assert not hasattr(made.iterations, "nodes")


def test_the_youngest_makes_room_and_is_prefilled_again() -> None:
    schedule = run(requests([4, 4], [4, 3], memory_bytes=9.0))
    made = schedule.generated
    assert made is not None
    # Two prompts of 4 fill 8 of 9 bytes; both cannot grow, so the second waits for the first and
    # is then prefilled with the token it has made.
    assert made.preemptions.tolist() == [0, 1]
    assert made.iterations.prefill_tokens.tolist() == [8, 0, 0, 0, 5, 0]
    assert made.iterations.kv_tokens.tolist() == [8, 5, 6, 7, 5, 6]
    assert made.first_token_s.tolist() == pytest.approx([1.8, 1.8])
    assert evaluate(requests([4, 4], [4, 3]), schedule).preemptions == 1


@pytest.mark.parametrize("ahead", [False, True])
def test_formed_ahead_newcomers_join_one_iteration_later(ahead: bool) -> None:
    # Iterations of 1.1, 1.01 and so on; the second request comes during the second of them.
    instance = requests([1, 1, 1], [6, 1, 1], [0.0, 1.5, 20.0], ahead=ahead)
    made = run(instance).generated
    assert made is not None
    ends = made.iterations.end_s[:, 0]
    place = int(np.argmin(np.abs(ends - made.first_token_s[1])))
    assert place == (3 if ahead else 2)
    # An engine with nothing to do takes what comes at once.
    assert made.start_s[2] == 20.0
    assert validate(instance, run(instance)) == []


def test_formed_ahead_memory_is_free_one_iteration_later() -> None:
    rule: dict[str, Any] = {"memory_bytes": 8.0}
    starts = [
        run(requests([4, 1, 4], [2, 6, 1], ahead=ahead, **rule)).generated.start_s
        for ahead in (False, True)
    ]
    assert starts[1][2] > starts[0][2]


@pytest.mark.parametrize(("keep", "again"), [(False, 6), (True, 4)])
def test_a_kept_prefix_is_not_prefilled_again(keep: bool, again: int) -> None:
    # Both hold 5 of 10 tokens when the younger gives way. The older makes 3 more tokens, on the
    # last 3 of the younger's 5; the other 2 are still there when it comes back for its 6.
    made = run(requests([4, 4], [5, 4], memory_bytes=10.0, keep_prefix=keep)).generated
    assert made is not None
    assert made.preemptions.tolist() == [0, 1]
    assert made.iterations.prefill_tokens.tolist()[:1] == [8]
    place = int(np.argmax(made.iterations.prefill_tokens[1:] > 0)) + 1
    assert made.iterations.prefill_tokens[place] == again
    assert made.iterations.prefill_pairs[place] == again * 6


def test_seconds_follow_the_curve_over_new_tokens() -> None:
    instance = requests([10, 5], [3, 2], [0.0, 0.5])
    iteration = instance.costs.iteration
    assert iteration is not None
    curved = replace(
        iteration,
        per_mixed_decode_s=0.5,
        per_mixed_context_token_s=0.01,
        token_knots=[2, 4, 8],
        token_s=[[[1.0, 3.0, 4.0]]],
    )
    # One token is before the first knot, 10 beyond the last, 6 between two.
    assert curved.by_tokens_s(0, [1, 2, 3, 6, 10]).ravel().tolist() == [1, 1, 2, 3.5, 4.5]
    instance = replace(instance, costs=replace(instance.costs, iteration=curved))
    schedule = run(instance)
    made = schedule.generated
    assert made is not None
    # As without: 2.0, 1.51 and 1.02; the second is 5 new tokens beside a decode of context 11.
    took = np.diff(made.iterations.end_s[:, 0], prepend=0.0)
    assert took == pytest.approx([2.0 + 4.5, 1.51 + 0.5 + 0.11 + 3.5, 1.02 + 1.0])
    assert validate(instance, schedule) == []
    assert curved.alone_s(0, 10, 3) == pytest.approx(2.0 + 4.5 + 2 * (1.01 + 1.0))
    twice = curved.scaled(np.array([1.0, 2.0]))
    assert twice.by_tokens_s([0, 1], 6).ravel().tolist() == [3.5, 7.0]


def test_what_turns_out_never_to_fit_is_dropped_when_it_arrives() -> None:
    instance = requests([4, 8], [4, 3], memory_bytes=10.0)
    assert instance.costs.iteration is not None
    more = replace(instance.costs.iteration, kv_bytes_per_token=[[1.25]])
    actual = replace(instance.costs, iteration=more)
    schedule = simulate(instance, FixedAssignment((0, 0)), actual=actual)
    assert schedule.out_of_memory == ((1, 0, 0, 0.0),)
    assert schedule.end_state.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("prompt", "output", "needed"), [(900, 10, "909"), (790, 20, "809"), (801, 1, "801")]
)
def test_a_request_that_no_node_can_ever_hold_is_refused_before_the_run(
    prompt: int, output: int, needed: str
) -> None:
    told = f"request 1 fits on no node: it needs {needed} tokens of KV memory, 800 fit on stage 0"
    with pytest.raises(InfeasibleError, match=rf"output_tokens\[1\]: {told}.*at most 801 together"):
        requests([100, prompt], [10, output], memory_bytes=800.0)
    # The last token needs no memory, and the published program holds none at all.
    requests([100, prompt], [10, output], memory_bytes=float(needed))
    requests([100, prompt], [10, output], memory_bytes=800.0, rule="reference")


def test_resident_bytes_and_the_fraction_count_in_what_fits_a_request() -> None:
    instance = requests([5], [4], memory_bytes=20.0)
    held = replace(instance.costs, resident_bytes=2.0)
    assert replace(instance, costs=held, memory_fraction=0.5).fits().tolist() == [[True]]
    with pytest.raises(InfeasibleError, match="needs 8 tokens of KV memory, 7 fit"):
        replace(instance, costs=replace(held, resident_bytes=3.0), memory_fraction=0.5)
    with pytest.raises(InfeasibleError, match="GiB"):
        replace(instance, costs=replace(held, resident_bytes=11.0), memory_fraction=0.5)


def test_the_published_batching_leaves_the_last_requests_unfinished() -> None:
    rule = {"rule": "reference", "batch_cap": 2, "least_tokens": 2}
    schedule = run(requests([10, 4, 3], [1, 2, 5], [0.0, 0.05, 3.0], **rule))
    made = schedule.generated
    assert made is not None
    # The second request comes within 0.1 s of the first; both are padded to 10. Only the third
    # starts another iteration, but the batch is full, so that it is put back and starts one more,
    # 0.1 s after the two have left.
    ran = made.iterations
    assert ran.start_s[:, 0] == pytest.approx([0.05, 3.05, 6.35])
    assert ran.prefill_tokens.tolist() == [20, 22, 3]
    assert made.tokens.tolist() == [2, 2, 1]
    assert schedule.end_state.tolist() == [0, 0, 3]
    assert not np.any(made.iterations.kv_tokens)


def test_a_long_prompt_clears_the_published_batch() -> None:
    rule = {"rule": "reference", "batch_cap": 2, "clear_tokens": 12}
    instance = requests([12, 4], [9, 9], **rule)
    schedule = run(instance)
    assert schedule.generated is not None
    assert schedule.generated.tokens.tolist() == [1, 1]
    assert schedule.complete
    assert evaluate(instance, schedule).truncated == 2


def test_the_reference_policy_scores_with_the_running_batch() -> None:
    policy = POLICIES.create("lemix-reference", rule="generate")
    seen: list[BatchObserved] = []
    inner = policy.observe

    class Watched:
        observes = policy.observes
        start, decide = policy.start, policy.decide

        def observe(self, state: Any, event: Event | BatchObserved) -> None:
            if isinstance(event, BatchObserved):
                seen.append(event)
            inner(state, event)

    simulate(requests([10, 5, 3], [9, 9, 1], [0.0, 2.5, 4.0]), Watched())
    # In the first iteration's batch, two tokens made; then a decode and a prefill have ended.
    assert [event.prompt_tokens for event in seen] == [(), (11,), (12, 5)]


def test_what_does_not_go_with_generation_is_named() -> None:
    with pytest.raises(ValueError, match=r"output_tokens\[1\]: 0"):
        requests([1, 1], [1, 0])
    instance = requests([1], [1])
    with pytest.raises(ValueError, match=r"costs\.iteration"):
        replace(instance, costs=replace(instance.costs, iteration=None))
    with pytest.raises(ValueError, match=r"batch\[0\]"):
        replace(instance, workload=replace(instance.workload, batch=2))
    with pytest.raises(ValueError, match=r"actual\.iteration"):
        simulate(instance, FixedAssignment((0,)), actual=replace(instance.costs, iteration=None))
    with pytest.raises(ValueError, match="chunk_tokens"):
        Generation(batch_cap=8, chunk_tokens=7)
    with pytest.raises(ValueError, match="chunk_tokens"):
        Generation("reference", chunk_tokens=512)
    with pytest.raises(ValueError, match=r"generation\.ahead: True under rule 'reference'"):
        Generation("reference", ahead=True)
    with pytest.raises(ValueError, match=r"generation\.keep_prefix: 1; expected True or False"):
        Generation(keep_prefix=1)  # type: ignore[arg-type]
    trains = Workload([0, 1], 0.0, 1, [1, 1], [1, 0])
    costs = Costs(np.ones((1, 2, 1)), 1.0, 0.0, 0.0, iteration=instance.costs.iteration)
    with pytest.raises(ValueError, match="True beside 1 training tasks"):
        replace(instance, workload=trains, costs=costs, generation=Generation(keep_prefix=True))
    with pytest.raises(ValueError, match=r"token_knots: .*rising"):
        IterationCosts([[1.0]], token_knots=[4, 4], token_s=[[[1.0, 1.0]]])
    with pytest.raises(ValueError, match=r"token_s: shape \(1, 1, 1\); expected shape \(1, 1, 2\)"):
        IterationCosts([[1.0]], token_knots=[4, 5], token_s=[[[1.0]]])
    with pytest.raises(ValueError, match="continuous, reference"):
        Generation("orca")
    with pytest.raises(ValueError, match="base_s"):
        IterationCosts([[0.0]])
