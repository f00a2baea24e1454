"""Running batches of token generation, as the kernel keeps them: counts, sums and linked lists.

Nothing here is looked through request by request while they decode. The requests of a node form
one list in order of arrival, whose first part runs: newcomers join at the end of that part, the
youngest is preempted there. When a request joins the decoding, the number of the iteration that
makes its last token is known, and it waits in that iteration's bucket.
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from lemix_opt.costs import Costs
from lemix_opt.engine.address import Addressed, AddressType
from lemix_opt.engine.books import NONE, Truth
from lemix_opt.engine.view import View, fixed
from lemix_opt.generation import GENERATION_RULES, Generation, IterationCosts
from lemix_opt.instance import Instance

FORWARD_ONLY, CONTINUOUS, REFERENCE = range(len(GENERATION_RULES) + 1)
# Coefficients of an iteration's seconds.
BASE, PER_TOKEN, PER_PAIR, PER_DECODE, PER_CONTEXT, MIXED_DECODE, MIXED_CONTEXT = range(7)
# Counts of an iteration.
PREFILLS, TOKENS, PAIRS, DECODES, CONTEXT, KV, COUNTS = range(7)
ROOM = 1 << 16
"""Iterations kept before the driver is told to take them."""
UNLIMITED = 1 << 62


class Columns(NamedTuple):
    """Columns of `Batches`.

    By node: `head` and `tail` of the list of requests, `youngest` of those that run, numbers
    `running` and `decoding`, the decoding ones' contexts in the next iteration summed
    (`context`), tokens held (`held`), iterations ended (`number`), `under_way`, tokens prefilled
    of the youngest if its prompt is not through (`partial`), the first request prefilled in the
    current iteration (`fresh`) and its `counts`. Formed ahead: requests that have come (`came`)
    and had come when the last iteration was formed (`seen`), requests and tokens that leave when
    the next one has been (`leavers`, `leaving`). Tokens of memory `taken` so far. Rule
    ``reference``: `stance` of the first stage's thread, the request it took (`pending`), until
    when it waits (`deadline_s`), when it wants to be woken (`alarm_s`) and the batch (`member`).

    By request: neighbours in the list (`after`, `before`) and in the bucket (`mate_after`,
    `mate_before`), `finish` (iteration of the last token), tokens `made` so far (before the
    latest prefill, while decoding), `preemptions`, `start_s`, `first_s`, `last_s`, how many had
    come to the node with it (`ticket`), tokens processed when it was preempted (`kept`) and how
    many may have been `taken` before the last of them is overwritten (`safe`).

    `seconds_expected` and `seconds_actual` are the coefficients by class and stage,
    `curve_expected` and `curve_actual` the seconds at `knots_expected` and `knots_actual` new
    tokens; forwards of iterations are written to the last rows of `forward_expected_s` and
    `forward_actual_s`.
    """

    head: npt.NDArray[np.int32]
    tail: npt.NDArray[np.int32]
    youngest: npt.NDArray[np.int32]
    fresh: npt.NDArray[np.int32]
    pending: npt.NDArray[np.int32]
    after: npt.NDArray[np.int32]
    before: npt.NDArray[np.int32]
    mate_after: npt.NDArray[np.int32]
    mate_before: npt.NDArray[np.int32]
    running: npt.NDArray[np.int64]
    decoding: npt.NDArray[np.int64]
    context: npt.NDArray[np.int64]
    held: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    under_way: npt.NDArray[np.int64]
    partial: npt.NDArray[np.int64]
    stance: npt.NDArray[np.int64]
    output: npt.NDArray[np.int64]
    finish: npt.NDArray[np.int64]
    made: npt.NDArray[np.int64]
    preemptions: npt.NDArray[np.int64]
    filled: npt.NDArray[np.int64]
    came: npt.NDArray[np.int64]
    seen: npt.NDArray[np.int64]
    leavers: npt.NDArray[np.int64]
    leaving: npt.NDArray[np.int64]
    taken: npt.NDArray[np.int64]
    ticket: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]
    safe: npt.NDArray[np.int64]
    deadline_s: npt.NDArray[np.float64]
    alarm_s: npt.NDArray[np.float64]
    start_s: npt.NDArray[np.float64]
    first_s: npt.NDArray[np.float64]
    last_s: npt.NDArray[np.float64]
    knots_expected: npt.NDArray[np.float64]
    knots_actual: npt.NDArray[np.float64]
    bucket_head: npt.NDArray[np.int32]
    bucket_tail: npt.NDArray[np.int32]
    member: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]
    table: npt.NDArray[np.int64]
    table_start_s: npt.NDArray[np.float64]
    table_end_s: npt.NDArray[np.float64]
    kv_bytes: npt.NDArray[np.float64]
    seconds_expected: npt.NDArray[np.float64]
    seconds_actual: npt.NDArray[np.float64]
    forward_expected_s: npt.NDArray[np.float64]
    forward_actual_s: npt.NDArray[np.float64]
    curve_expected: npt.NDArray[np.float64]
    curve_actual: npt.NDArray[np.float64]
    cap: int
    chunk: int
    clear: int
    least: int
    ahead: int
    keep: int
    wait_s: float


_KINDS = (
    [(types.int32, 1)] * 9
    + [(types.int64, 1)] * 21
    + [(types.float64, 1)] * 7
    + [(types.int32, 2)] * 3
    + [(types.int64, 2)] * 2
    + [(types.float64, 2)] * 3
    + [(types.float64, 3)] * 6
)
_COLUMNS_T = types.NamedTuple(
    (
        *(types.Array(entry, dimensions, "C") for entry, dimensions in _KINDS),
        *[types.int64] * 6,
        types.float64,
    ),
    Columns,
)
BATCHES_T = AddressType("lemix_opt.Batches", _COLUMNS_T)


class Batches(Addressed):
    """Batches of all nodes; see `Columns`."""

    numba_type = BATCHES_T
    __slots__ = ()


def _coefficients(costs: IterationCosts) -> npt.NDArray[np.float64]:
    """Return the coefficients in the order of their indices, shape (K, S, 7)."""
    columns = (
        costs.base_s,
        costs.per_prefill_token_s,
        costs.per_prefill_pair_s,
        costs.per_decode_s,
        costs.per_context_token_s,
        costs.per_mixed_decode_s,
        costs.per_mixed_context_token_s,
    )
    return np.ascontiguousarray(np.stack(columns, axis=-1))


def _lengthened(array: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Return a copy with some more rows of zeros for tasks; they lie on the last axis but one."""
    shape = list(array.shape)
    shape[-2] = rows
    return np.concatenate([array, np.zeros(shape, array.dtype)], axis=-2)


def batches_of(
    instance: Instance, costs: Costs, shown: View, truth: Truth
) -> tuple[View, Truth, Batches]:
    """Return what the kernel reads where requests generate tokens, and empty batches.

    Parameters
    ----------
    instance : Instance
        Rules, and predicted costs of iterations.
    costs : Costs
        What really happens.
    shown : View
        What policies see.
    truth : Truth
        The columns of `costs`.

    Returns
    -------
    view, truth, batches
        Columns with a row per node after those of the tasks; as they came without generation.
    """
    rule, nodes = instance.generation, instance.cluster.nodes
    predicted, real = instance.costs.iteration, costs.iteration
    if rule is None or predicted is None or real is None:
        nothing = IterationCosts(np.ones((1, 1)))
        none = _columns(Generation(batch_cap=1), 1, [1], nothing, nothing, 1)
        return shown, truth, Batches(none)
    expected_s = _lengthened(shown.forward_s, nodes)
    actual_s = _lengthened(truth.forward_s, nodes)
    training = np.concatenate([shown.training, np.zeros(nodes, np.uint8)])
    view = View(
        shown.columns._replace(
            training=fixed(training, np.uint8), forward_s=fixed(expected_s, np.float64)
        )
    )
    held = _lengthened(truth.held_bytes, nodes)
    # Requests hold KV memory instead.
    held[:, np.flatnonzero(instance.workload.is_inference)] = 0.0
    hop = _lengthened(truth.hop_s, nodes)
    hop[:, instance.tasks :] = real.hop_s[:, None]
    truth = truth._replace(
        forward_s=fixed(actual_s, np.float64),
        held_bytes=fixed(held, np.float64),
        hop_s=fixed(hop, np.float64),
    )
    output = instance.workload.output_tokens
    batches = _columns(rule, nodes, output, predicted, real, ROOM)
    batches = batches._replace(forward_expected_s=expected_s, forward_actual_s=actual_s)
    return view, truth, Batches(batches)


def _columns(
    rule: Generation,
    nodes: int,
    output: npt.ArrayLike,
    predicted: IterationCosts,
    real: IterationCosts,
    room: int,
) -> Columns:
    output = np.array(output, dtype=np.int64)
    tasks, stages = output.size, predicted.base_s.shape[1]
    reference = rule.rule == "reference"
    # Iterations of last tokens lie less than this far ahead.
    ring = 1 if reference else 1 << int(output.max(initial=1)).bit_length()

    def put(size: int, value: int, kind: Any = np.int32) -> Any:
        return np.full(size, value, dtype=kind)

    def none(columns: int) -> Any:
        return np.full((nodes, columns), NONE, dtype=np.int32)

    return Columns(
        head=put(nodes, NONE),
        tail=put(nodes, NONE),
        youngest=put(nodes, NONE),
        fresh=put(nodes, NONE),
        pending=put(nodes, NONE),
        after=put(tasks, NONE),
        before=put(tasks, NONE),
        mate_after=put(tasks, NONE),
        mate_before=put(tasks, NONE),
        running=put(nodes, 0, np.int64),
        decoding=put(nodes, 0, np.int64),
        context=put(nodes, 0, np.int64),
        held=put(nodes, 0, np.int64),
        number=put(nodes, 0, np.int64),
        under_way=put(nodes, 0, np.int64),
        partial=put(nodes, 0, np.int64),
        stance=put(nodes, 0, np.int64),
        output=output,
        finish=put(tasks, NONE, np.int64),
        made=put(tasks, 0, np.int64),
        preemptions=put(tasks, 0, np.int64),
        filled=put(1, 0, np.int64),
        came=put(nodes, 0, np.int64),
        seen=put(nodes, 0, np.int64),
        leavers=put(nodes, 0, np.int64),
        leaving=put(nodes, 0, np.int64),
        taken=put(nodes, 0, np.int64),
        ticket=put(tasks, 0, np.int64),
        kept=put(tasks, 0, np.int64),
        safe=put(tasks, 0, np.int64),
        deadline_s=np.full(nodes, inf),
        alarm_s=np.full(nodes, inf),
        start_s=np.full(tasks, inf),
        first_s=np.full(tasks, inf),
        last_s=np.full(tasks, inf),
        knots_expected=np.array(predicted.token_knots),
        knots_actual=np.array(real.token_knots),
        bucket_head=none(ring),
        bucket_tail=none(ring),
        member=none(rule.batch_cap if reference else 1),
        counts=np.zeros((nodes, COUNTS), dtype=np.int64),
        table=np.empty((1 + COUNTS, room), dtype=np.int64),
        table_start_s=np.empty((room, stages)),
        table_end_s=np.empty((room, stages)),
        kv_bytes=np.array(real.kv_bytes_per_token),
        seconds_expected=_coefficients(predicted),
        seconds_actual=_coefficients(real),
        forward_expected_s=np.empty((1, 1, 1)),
        forward_actual_s=np.empty((1, 1, 1)),
        curve_expected=np.array(predicted.token_s),
        curve_actual=np.array(real.token_s),
        cap=rule.batch_cap,
        chunk=UNLIMITED if rule.chunk_tokens is None else rule.chunk_tokens,
        clear=rule.clear_tokens,
        least=rule.least_tokens,
        ahead=int(rule.ahead),
        keep=int(rule.keep_prefix),
        wait_s=rule.wait_s,
    )
