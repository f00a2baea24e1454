"""An independent check of token generation: what iterations held, took and made.

What an iteration held is worked out again from first and last tokens, where no request was
preempted and prompts are prefilled whole.
"""

from __future__ import annotations

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from lemix_opt.generated import Generated
from lemix_opt.generation import Generation, IterationCosts
from lemix_opt.instance import Instance
from lemix_opt.schedule import Schedule
from lemix_opt.violation import TOLERANCE_S, Violation

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
    check = _Check(instance, schedule, rule, costs, made)
    check.durations()
    check.requests()
    for node in range(instance.cluster.nodes):
        check.one_at_a_time(node)
        check.batches(node)
    return check.found


class _Check:
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
