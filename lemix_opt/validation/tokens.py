"""An independent check of token generation: what iterations held, took and made.

What an iteration held is worked out again from first and last tokens, where no request was
preempted and prompts are prefilled whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from lemix_opt.generated import Generated, Iterations
from lemix_opt.generation import Generation, IterationCosts
from lemix_opt.instance import Instance
from lemix_opt.schedule import Schedule
from lemix_opt.validation.operations import BLOCK_ROWS, NodeIterations, OperationTable
from lemix_opt.validation.violation import TOLERANCE_S, Violation

_COUNTS = ("prefills", "prefill_tokens", "prefill_pairs", "decodes", "context_tokens", "kv_tokens")


def iteration_rows_fault(instance: Instance, schedule: Schedule) -> Violation | None:
    """Return the first iteration that is on no GPU of the cluster, if any."""
    if schedule.generated is None:
        return None
    rows, cluster = schedule.generated.iterations, instance.cluster
    if rows.start_s.shape[1] != cluster.stages:
        text = f"iterations run on {rows.start_s.shape[1]} stages, expected {cluster.stages}"
        return Violation("iterations", text)
    away = np.flatnonzero(rows.stored("node") >= cluster.nodes)
    if not away.size:
        return None
    row = int(away[0])
    node = int(rows.part("node", away[:1])[0])
    text = f"iteration {row} is on node {node} of {cluster.nodes}"
    return Violation("iterations", text, node=node, time_s=float(rows.start_s[row].min()))


def token_faults(instance: Instance, schedule: Schedule) -> list[Violation]:
    """Check what iterations take, and what requests have, where all tasks are done.

    Parameters
    ----------
    instance, schedule : Instance, Schedule
        What is checked.

    Returns
    -------
    list of Violation
        Empty when all is right; of iterations, the first wrong one on every stage.
    """
    rule, costs, made = instance.generation, instance.costs.iteration, schedule.generated
    if rule is None or costs is None or made is None:
        return []
    found = _duration_faults(instance, made.iterations, costs)
    return found + _request_faults(instance, schedule, rule, made)


def batch_faults(table: OperationTable, node: int, iterations: NodeIterations) -> list[Violation]:
    """Check what the iterations of a node hold, and that they come one after the other.

    Parameters
    ----------
    table : OperationTable
        All operations.
    node : int
        Which node.
    iterations : NodeIterations
        What it ran.

    Returns
    -------
    list of Violation
        Empty when all is right; of every rule the first iteration or request that breaks it.
    """
    rule, made = table.instance.generation, table.schedule.generated
    if rule is None or made is None:
        return []
    batches = _Batches(table, rule, made, node, iterations)
    batches.one_at_a_time()
    batches.sizes()
    batches.contents()
    return batches.found


def _of_iteration(rows: Iterations, name: str, text: str, row: int, stage: int = 0) -> Violation:
    start, node = float(rows.start_s[row, stage]), int(rows.part("node", slice(row, row + 1))[0])
    text = f"iteration {row} on node {node} {text}"
    return Violation(name, text, stage=stage, node=node, time_s=start)


def _duration_faults(
    instance: Instance, rows: Iterations, costs: IterationCosts
) -> list[Violation]:
    """Name, by stage, the first iteration that takes too long or starts too early."""
    found, stages = [], instance.cluster.stages
    blocks = range(0, rows.rows, BLOCK_ROWS)
    wrong_length, early = [False] * stages, [False] * stages
    for begin in blocks:
        some = slice(begin, min(begin + BLOCK_ROWS, rows.rows))
        kind = instance.cluster.node_class[rows.part("node", some)]
        amounts = _amounts(rows, some)
        for stage in range(stages):
            wanted = _wanted_s(costs, kind, stage, amounts)
            took = rows.end_s[some, stage] - rows.start_s[some, stage]
            wrong = np.abs(took - wanted) > TOLERANCE_S
            if not wrong_length[stage] and wrong.any():
                wrong_length[stage] = True
                row = int(np.argmax(wrong))
                text = f"takes {took[row]:.9g} s on stage {stage}, expected {wanted[row]:.9g} s"
                found.append(_of_iteration(rows, "duration", text, begin + row, stage))
            if stage == 0 or early[stage]:
                continue
            ready = rows.end_s[some, stage - 1] + costs.hop_s[kind, stage - 1]
            wrong = rows.start_s[some, stage] < ready - TOLERANCE_S
            if wrong.any():
                early[stage] = True
                row = int(np.argmax(wrong))
                text = f"starts on stage {stage} before {ready[row]:.9g} s"
                found.append(_of_iteration(rows, "precedence", text, begin + row, stage))
    return found


def _amounts(rows: Iterations, some: slice) -> dict[str, IntArray]:
    """Return what iterations did, by the name of the coefficient of its seconds."""
    tokens, pairs, decodes, context = (
        rows.part(name, some)
        for name in ("prefill_tokens", "prefill_pairs", "decodes", "context_tokens")
    )
    mixed = tokens > 0
    return {
        "per_prefill_token_s": tokens,
        "per_prefill_pair_s": pairs,
        "per_decode_s": decodes,
        "per_context_token_s": context,
        "per_mixed_decode_s": decodes * mixed,
        "per_mixed_context_token_s": context * mixed,
    }


def _wanted_s(
    costs: IterationCosts, kind: IntArray, stage: int, amounts: dict[str, IntArray]
) -> FloatArray:
    """Return the seconds that iterations should take on a stage."""
    # One number for all iterations is quicker than one that is looked up for each.
    of = (0, stage) if costs.base_s.shape[0] == 1 else (kind, stage)
    wanted: FloatArray = np.zeros(kind.size) + costs.base_s[of]
    for name, amount in amounts.items():
        coefficient = getattr(costs, name)
        if coefficient.any():
            wanted += coefficient[of] * amount
    if costs.token_knots.size:
        new = amounts["per_prefill_token_s"] + amounts["per_decode_s"]
        for k in np.unique(kind).tolist():
            mine = kind == k
            wanted[mine] += _on_curve(costs.token_knots, costs.token_s[k, stage], new[mine])
    return wanted


def _request_faults(
    instance: Instance, schedule: Schedule, rule: Generation, made: Generated
) -> list[Violation]:
    """Check how many tokens requests have, and that start, first and last token rise."""
    tasks = np.flatnonzero(instance.workload.is_inference)
    wanted, tokens = instance.workload.output_tokens[tasks], made.tokens[tasks]
    start, first, last = (
        column[tasks] for column in (made.start_s, made.first_token_s, made.last_token_s)
    )
    if rule.rule == "reference":
        few = (tokens < 1) | (tokens > np.maximum(wanted, rule.least_tokens))
    else:
        few = tokens != wanted
    found = []
    for at in np.flatnonzero(few | (start >= first) | (first > last)).tolist():
        task = int(tasks[at])
        text = f"request {task} has {tokens[at]} tokens, expected {wanted[at]}"
        if not few[at]:
            text = f"request {task} starts at {start[at]:.9g} s, has its first token at "
            text += f"{first[at]:.9g} s and its last at {last[at]:.9g} s"
        node = int(schedule.node[task])
        found.append(Violation("tokens", text, task, 0, node, float(start[at])))
    return found


class _Batches:
    """Checks of the iterations of one node, of which each names its first fault."""

    def __init__(
        self,
        table: OperationTable,
        rule: Generation,
        made: Generated,
        node: int,
        iterations: NodeIterations,
    ) -> None:
        self.table, self.rule, self.made, self.node = table, rule, made, node
        self.ran = iterations
        self.columns = {name: iterations.stored(name) for name in _COUNTS}
        self.found: list[Violation] = []

    def first(self, name: str, wrong: BoolArray, rows: IntArray, say: str) -> None:
        """Name the first of the given rows that is wrong."""
        if wrong.any():
            row = int(rows[int(np.argmax(wrong))])
            self.found.append(_of_iteration(self.made.iterations, name, say, row))

    def of_request(self, tasks: IntArray, wrong: BoolArray, say: str) -> None:
        """Name the first of the given requests that is wrong."""
        task = int(tasks[np.argmax(wrong)])
        text = say.format(task=task, tokens=self.made.tokens[task])
        self.found.append(Violation("tokens", text, task, 0, self.node))

    def one_at_a_time(self) -> None:
        """Check that an iteration starts after the one before it."""
        early = self.ran.start_s[1:, 0] < self.ran.end_s[:-1, -1] - TOLERANCE_S
        text = "starts before the one ahead of it has ended"
        self.first("one_iteration", early, self.ran.rows[1:], text)

    def sizes(self) -> None:
        """Check that batches are within their caps."""
        cap, chunk = self.rule.batch_cap, self.rule.chunk_tokens
        decodes = self.columns["decodes"]
        together = np.add(self.columns["prefills"], decodes, dtype=np.int64)
        self.first("batch_cap", together > cap, self.ran.rows, f"holds over {cap}")
        if chunk is not None:
            tokens = np.add(self.columns["prefill_tokens"], decodes, dtype=np.int64)
            self.first("chunk", tokens > chunk, self.ran.rows, f"has over {chunk} tokens")

    def contents(self) -> None:
        """Check that tokens come with iterations, one each, and what iterations then held."""
        made, instance = self.made, self.table.instance
        here = self.table.by_node[self.node]
        tasks = here[instance.workload.is_inference[here]]
        if not tasks.size:
            return
        ends = self.ran.end_s[:, -1]
        first, last = (
            _places(ends, column[tasks]) for column in (made.first_token_s, made.last_token_s)
        )
        nowhere = (first < 0) | (last < 0)
        if nowhere.any():
            text = "a token of request {task} does not come with the end of an iteration"
            self.of_request(tasks, nowhere, text)
            return
        spare, again = last - first + 1 - made.tokens[tasks], made.preemptions[tasks]
        wrong = (spare < 0) | ((spare > 0) & (again == 0))
        if wrong.any():
            text = "request {task} has {tokens} tokens, not one per iteration"
            self.of_request(tasks, wrong, text)
        elif not again.any() and self.rule.chunk_tokens is None:
            prompt = instance.workload.prompt_tokens[tasks]
            held = _padded if self.rule.rule == "reference" else _hybrid
            wanted = held(ends.size, prompt, first, last)
            for (name, found), column in zip(self.columns.items(), wanted, strict=True):
                text = f"has wrong {name.replace('_', ' ')}"
                self.first("batch", found != column, self.ran.rows, text)


def _places(ends: FloatArray, times: FloatArray) -> IntArray:
    """Return which iteration ends at each time, −1 where none does."""
    if not ends.size:
        return np.full(times.shape, -1)
    at = np.minimum(np.searchsorted(ends, times - TOLERANCE_S), ends.size - 1)
    return np.where(np.abs(ends[at] - times) <= TOLERANCE_S, at, -1)


def _on_curve(knots: FloatArray, seconds: FloatArray, tokens: IntArray) -> FloatArray:
    """Return the seconds of new tokens, along the last piece beyond the last knot."""
    found = np.interp(tokens, knots, seconds)
    if knots.size > 1:
        slope = (seconds[-1] - seconds[-2]) / (knots[-1] - knots[-2])
        found += slope * np.maximum(tokens - knots[-1], 0)
    return np.maximum(found, 0.0)


def _under_way(count: int, begin: IntArray, end: IntArray, amount: IntArray | int) -> IntArray:
    """Return the sum of amounts over iterations from begin to end, both of them included."""
    found = np.zeros(count + 1, dtype=np.int64)
    np.add.at(found, begin, amount)
    np.subtract.at(found, end + 1, amount)
    return np.cumsum(found)[:-1]


def _hybrid(count: int, prompt: IntArray, first: IntArray, last: IntArray) -> Iterator[IntArray]:
    """Yield what iterations hold: prefills at the first token, decodes from then to the last.

    A request of p prompt tokens has a context of p + i − first tokens in iteration i.
    """
    for amount in (np.ones_like(prompt), prompt, prompt * prompt):
        found = np.zeros(count, dtype=np.int64)
        np.add.at(found, first, amount)
        yield found
    decodes = _under_way(count, first + 1, last, 1)
    yield decodes
    place = np.arange(count)
    yield _under_way(count, first + 1, last, prompt - first) + place * decodes
    yield _under_way(count, first, last, prompt - first) + place * _under_way(count, first, last, 1)


def _padded(count: int, prompt: IntArray, first: IntArray, last: IntArray) -> Iterator[IntArray]:
    """Yield what iterations hold that prefill all rows at the longest length."""
    rows = _under_way(count, first, last, 1)
    # Lengths grow together, so that the row that is longest less the iteration stays so.
    longest = np.where(rows > 0, _largest(count, first, last, prompt - first) + np.arange(count), 0)
    yield rows
    yield rows * longest
    yield rows * longest * longest
    for _ in _COUNTS[3:]:
        yield np.zeros(count, dtype=np.int64)


def _largest(count: int, first: IntArray, last: IntArray, value: IntArray) -> IntArray:
    """Return the largest value under way in every iteration, by spans of powers of two.

    A span from first to last is covered by two of the largest power of two within it; then each
    span hands its largest value down to its two halves.
    """
    least = np.iinfo(np.int64).min
    length = last - first + 1
    power = np.frexp(length.astype(np.float64))[1] - 1
    current = np.full(count, least)
    for k in range(int(power.max()), -1, -1):
        mine = power == k
        span = 1 << k
        np.maximum.at(current, first[mine], value[mine])
        np.maximum.at(current, last[mine] - span + 1, value[mine])
        if k:
            half = span // 2
            shifted = np.full(count, least)
            shifted[half:] = current[:-half]
            current = np.maximum(current, shifted)
    return current
