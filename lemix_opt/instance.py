"""One scheduling problem: cluster, workload, predicted costs and rules, frozen and validated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray, arrays_equal, choice, floats, whole
from lemix_opt.cluster import Cluster
from lemix_opt.contention import Contention
from lemix_opt.costs import Costs
from lemix_opt.errors import FieldError, InfeasibleError, UnsupportedError
from lemix_opt.generation import Generation
from lemix_opt.memory_wait import AT_ONCE, PUBLISHED, MemoryWait
from lemix_opt.weight_sync import WeightSync
from lemix_opt.workload import Workload

RELEASE_MODES = ("async", "sync", "open")
PIPELINES = ("plain", "gpipe", "1f1b")
GPU_ORDERS = ("reserve", "backward_first", "fifo", "task_id")
GPU_SHARINGS = ("exclusive", "reference_threads")
MEMORY_RULES = ("reserve", "reference_threshold")
MOST_MICRO_BATCHES = 2**12
MOST_OPERATIONS = 2**28
"""Forwards and backwards of all tasks; a table of so many takes about 15 GB."""
LONGEST_TICK_S = 1e6
PLAIN_RULES = {
    "pipeline": PIPELINES[0],
    "gpu_sharing": GPU_SHARINGS[0],
    "memory_rule": MEMORY_RULES[0],
    "memory_wait": None,
    "weight_sync": None,
    "generation": None,
}
"""Values within the exact model of the fields that may go beyond it."""


def _all_at_most(rows: FloatArray, limits: FloatArray) -> BoolArray:
    """Whether all entries of a row are within the limits of their columns."""
    within = np.ones(len(rows), dtype=bool)
    for column, limit in zip(rows.T, limits, strict=True):
        within &= column <= limit
    return within


@dataclass(frozen=True, eq=False)
class Instance:
    """Cluster, workload, predicted costs and the rules of execution.

    Parameters
    ----------
    cluster : Cluster
        Nodes and their memory.
    workload : Workload
        Tasks in columns.
    costs : Costs
        Predicted seconds and bytes, for every node class of the cluster.
    release_mode : {"async", "sync", "open"}, default "async"
        When the next training task is released: after the previous one's first-stage forward
        (A-PP), after its last backward (S-PP), or at its own time.
    pipeline : {"plain", "gpipe", "1f1b"}, default "plain"
        Order of micro-batches within a training task: under ``"gpipe"`` its backwards begin when
        all of its forwards have ended on the last stage, under ``"1f1b"`` each right after its
        own, with at most S − s of them between forward and backward on stage s.
    micro_batches : int, default 1
        Micro-batches per training task, at most `MOST_MICRO_BATCHES`; its seconds and held bytes
        divide by their number, hops do not.
    gpu_order : {"reserve", "backward_first", "fifo", "task_id"}, default "reserve"
        Which ready operation a GPU takes next.
    gpu_sharing : {"exclusive", "reference_threads"}, default "exclusive"
        Whether a GPU runs one operation at a time, or, as in the published code's threads, a
        forward beside another task's backward or update. A node then runs the backwards of one
        task at a time, and its last stage starts no forward before they and the updates are over.
        No backward waits for a forward, so that `gpu_order` only orders forwards: by task index
        under "task_id", else by ready time.
    memory_rule : {"reserve", "reference_threshold"}, default "reserve"
        When an operation may start. "reserve": a forward whose memory is free. The published
        "reference_threshold": any forward or backward while the bytes in use are at most
        `memory_fraction` of the GPU's, whatever it needs itself. The operation whose turn it is
        waits with the GPU (under "reference_threads" with its worker); one that then needs more
        than the whole GPU has is an out-of-memory event, and its task is dropped.
    memory_fraction : float, default 1.0
        Share of every GPU's memory that may be used.
    fifo : bool, default False
        Whether all stages of a node start forwards in one order.
    tick_s : float, default 0.001
        Seconds of a solver tick, at most a million.
    slo_unit_s : float, optional
        Seconds of one SLO unit. Computed when omitted: mean over inference tasks of Σ_s forward_s
        on node class 0 (NaN when there is none). Windows keep the unit of their whole run.
    weight_sync : WeightSync, optional
        How serving nodes receive weights; they never do when omitted.
    memory_wait : MemoryWait, optional
        How long operations wait for memory: when omitted, without end and at once when memory is
        freed; under "reference_threshold" as published, looking every 0.1 s for up to 10 s.
    contention : Contention, optional
        Slow-down under "reference_threads"; none when omitted.
    generation : Generation, optional
        How inference tasks, single requests then, generate their output tokens. Forward passes
        only when omitted.

    Raises
    ------
    FieldError
        If fields do not fit together.
    InfeasibleError
        If a task fits on no node; of a request that generates tokens, the KV memory of its prompt
        and whole output.
    """

    cluster: Cluster
    workload: Workload
    costs: Costs
    release_mode: str = "async"
    pipeline: str = "plain"
    micro_batches: int = 1
    gpu_order: str = "reserve"
    gpu_sharing: str = "exclusive"
    memory_rule: str = "reserve"
    memory_fraction: float = 1.0
    fifo: bool = False
    tick_s: float = 0.001
    slo_unit_s: float | None = None
    weight_sync: WeightSync | None = None
    memory_wait: MemoryWait | None = None
    contention: Contention | None = None
    generation: Generation | None = None

    def __post_init__(self) -> None:
        choice("release_mode", self.release_mode, RELEASE_MODES)
        choice("pipeline", self.pipeline, PIPELINES)
        choice("gpu_order", self.gpu_order, GPU_ORDERS)
        choice("gpu_sharing", self.gpu_sharing, GPU_SHARINGS)
        choice("memory_rule", self.memory_rule, MEMORY_RULES)
        put: dict[str, Any] = {
            "micro_batches": whole(
                "micro_batches", self.micro_batches, minimum=1, maximum=MOST_MICRO_BATCHES
            ),
            "memory_fraction": float(
                floats("memory_fraction", self.memory_fraction, (), above=0, maximum=1)
            ),
            "tick_s": float(floats("tick_s", self.tick_s, (), above=0, maximum=LONGEST_TICK_S)),
        }
        if self.micro_batches > 1 and self.pipeline == "plain":
            raise FieldError(
                f"{self.micro_batches} micro-batches under pipeline 'plain'",
                where="micro_batches",
                expected="1, or pipeline 'gpipe' or '1f1b'",
            )
        if not isinstance(self.fifo, bool):
            raise FieldError(f"{self.fifo!r}", where="fifo", expected="True or False")
        wanted = (self.cluster.classes, self.workload.tasks, self.cluster.stages)
        found = (self.costs.classes, self.costs.tasks, self.costs.stages)
        if found[1:] != wanted[1:] or found[0] < wanted[0]:
            raise FieldError(
                f"(classes, tasks, stages) = {found}",
                where="costs",
                expected=f"{wanted} as in cluster and workload",
            )
        if self.slo_unit_s is None:
            inference = self.workload.is_inference
            work = self.costs.forward_s[0][inference].sum(axis=1)
            put["slo_unit_s"] = float(work.mean()) if work.size else float("nan")
        elif not (isinstance(self.slo_unit_s, float) and np.isnan(self.slo_unit_s)):
            put["slo_unit_s"] = float(floats("slo_unit_s", self.slo_unit_s, (), above=0))
        for name, value in put.items():
            object.__setattr__(self, name, value)
        if self.weight_sync is not None:
            self.weight_sync.check(self.cluster.nodes)
        self._check_operations()
        self._check_sharing()
        if self.generation is not None:
            self._check_requests()
        self._check_memory()

    def _check_operations(self) -> None:
        trained = int(self.workload.is_training.sum())
        passes = self.workload.tasks - trained + 2 * self.micro_batches * trained
        if (operations := passes * self.cluster.stages) > MOST_OPERATIONS:
            raise FieldError(
                f"{operations} operations of {self.workload.tasks} tasks",
                where="tasks, stages and micro_batches",
                expected=f"at most {MOST_OPERATIONS}",
                hint="Use fewer of them",
            )

    def _check_sharing(self) -> None:
        """Refuse settings of a rule that is not in force, and what is not defined together."""
        for name, kind in (("memory_wait", MemoryWait), ("contention", Contention)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise FieldError(
                    f"a {type(value).__name__}", where=name, expected=f"a {kind.__name__} or None"
                )
        shared = self.gpu_sharing != GPU_SHARINGS[0]
        published = self.memory_rule != MEMORY_RULES[0]
        if self.contention is not None and not shared:
            raise FieldError(
                f"contention under gpu_sharing {self.gpu_sharing!r}",
                where="contention",
                expected="None, or gpu_sharing 'reference_threads'",
            )
        if self.micro_batches > 1 and (shared or published or self.memory_wait is not None):
            raise FieldError(
                f"{self.micro_batches} micro-batches with a memory_wait or the published code's "
                "memory or threads",
                where="micro_batches",
                expected="1: the published code has none",
            )
        if published and np.isinf(self.waiting.max_wait_s):
            raise FieldError(
                "inf under memory_rule 'reference_threshold'",
                where="memory_wait.max_wait_s",
                expected="a finite time: use may stay above a threshold for good",
            )

        if self.waiting.offload_bytes_per_s and (shared or published):
            raise FieldError(
                f"offloading under {self.gpu_sharing!r} and {self.memory_rule!r}",
                where="memory_wait.offload_bytes_per_s",
                expected="0, or gpu_sharing 'exclusive' and memory_rule 'reserve'",
            )

    def _check_requests(self) -> None:
        for name in ("gpu_sharing", "memory_rule", "memory_wait"):
            if getattr(self, name) != PLAIN_RULES[name]:
                raise FieldError(
                    f"token generation under {name} {getattr(self, name)!r}",
                    where="generation",
                    expected=f"None, or {name} {PLAIN_RULES[name]!r}",
                )
        if self.generation is not None and self.generation.keep_prefix:
            trains = int(self.workload.is_training.sum())
            if trains:
                raise FieldError(
                    f"True beside {trains} training tasks",
                    where="generation.keep_prefix",
                    expected="False, or requests only",
                )
        if self.costs.iteration is None:
            raise FieldError("None", where="costs.iteration", expected="costs of iterations")
        for name, value, wrong, expected in (
            ("batch", self.workload.batch, self.workload.batch != 1, "1: a request is one row"),
            (
                "output_tokens",
                self.workload.output_tokens,
                self.workload.output_tokens < 1,
                "at least 1 for a request",
            ),
        ):
            bad = np.flatnonzero(wrong & self.workload.is_inference)
            if bad.size:
                task = int(bad[0])
                raise FieldError(f"{value[task]}", where=f"{name}[{task}]", expected=expected)

    def _check_memory(self) -> None:
        if self.fits_everywhere:
            return
        homeless = np.flatnonzero(~self.fits().any(axis=1))
        if not homeless.size:
            return
        task = int(homeless[0])
        kinds, resident = self.cluster.node_class, self.resident_bytes
        need = self.peak_bytes(self.costs)[kinds, task] + resident
        limit = np.where(resident <= self.capacity_bytes, self.limit_bytes, self.capacity_bytes)
        over = need - limit
        node = int(np.argmin(over.max(axis=1)))
        stage = int(np.argmax(over[node]))
        room = float(limit[node, stage] - resident[node, stage])
        if self.generation is not None and self.workload.is_inference[task] and room >= 0:
            raise self._kv_lacks(task, node, stage, room)
        raise InfeasibleError(
            f"task {task} fits on no node: it needs {need[node, stage] / 2**30:.2f} GiB "
            f"(resident included) on stage {stage} of node {node}",
            where=f"held_bytes[:, {task}, :]",
            expected=f"at most {limit[node, stage] / 2**30:.2f} GiB",
            hint="Use larger GPUs, more stages, shorter tasks or a larger memory_fraction",
        )

    def _kv_lacks(self, task: int, node: int, stage: int, room_bytes: float) -> InfeasibleError:
        """Return the error for a request whose whole KV cache no node can hold."""
        assert self.generation is not None
        assert self.costs.iteration is not None
        work, kind = self.workload, self.cluster.node_class[node]
        prompt, output = work.prompt_tokens[task], work.output_tokens[task]
        needed = int(self.generation.held_tokens(prompt, output))
        room = int(room_bytes / self.costs.iteration.kv_bytes_per_token[kind, stage])
        room = min(room, needed - 1)  # A quotient may round up to a whole token.
        return InfeasibleError(
            f"request {task} fits on no node: it needs {needed} tokens of KV memory, {room} fit "
            f"on stage {stage} of node {node}",
            where=f"prompt_tokens[{task}], output_tokens[{task}]",
            expected=f"at most {room + 1} together, as the last token needs no memory",
            hint="Use larger GPUs, more stages, shorter requests or a larger memory_fraction",
        )

    def require_plain_rules(self, refused: str, executed: tuple[str, ...] = ()) -> None:
        """Raise `UnsupportedError` for a rule beyond the exact model.

        Parameters
        ----------
        refused : str
            End of the sentence that says so.
        executed : tuple of str, default ()
            Fields whose every value is taken all the same.
        """
        for name, plain in PLAIN_RULES.items():
            if name in self.beyond_exact_model and name not in executed:
                raise UnsupportedError(
                    f"{name} {getattr(self, name)!r} {refused}", where=name, expected=repr(plain)
                )

    @property
    def beyond_exact_model(self) -> tuple[str, ...]:
        """Names of the fields whose values lie beyond the exact model."""
        return tuple(name for name, plain in PLAIN_RULES.items() if getattr(self, name) != plain)

    @property
    def tasks(self) -> int:
        """Number of tasks T."""
        return self.workload.tasks

    @property
    def capacity_bytes(self) -> FloatArray:
        """Usable bytes of every GPU, shape (N, S)."""
        return self.memory_fraction * self.cluster.memory_bytes

    @property
    def limit_bytes(self) -> FloatArray:
        """Bytes of every GPU that nothing may exceed, shape (N, S).

        The published threshold does not test what an operation needs: all of the GPU.
        """
        if self.memory_rule == MEMORY_RULES[0]:
            return self.capacity_bytes
        return self.cluster.memory_bytes

    @property
    def waiting(self) -> MemoryWait:
        """The waiting for memory in force."""
        if self.memory_wait is not None:
            return self.memory_wait
        return AT_ONCE if self.memory_rule == MEMORY_RULES[0] else PUBLISHED

    @property
    def resident_bytes(self) -> FloatArray:
        """Resident bytes of every GPU, shape (N, S)."""
        return self.costs.resident_bytes[self.cluster.node_class]

    @property
    def shares(self) -> IntArray:
        """Micro-batches of one training task that a stage holds at most, shape (S,).

        All of them under GPipe; under 1F1B as many as a stage warms up with, S − s.
        """
        stages = np.arange(self.cluster.stages)
        if self.pipeline == "1f1b":
            return np.minimum(self.micro_batches, self.cluster.stages - stages)
        return np.full_like(stages, self.micro_batches)

    def peak_bytes(self, costs: Costs) -> FloatArray:
        """Return the most bytes a task holds at once on a stage under some costs, (K, T, S).

        A request that generates tokens holds the KV memory that `generation` takes for it.
        """
        held, work = costs.held_bytes, self.workload
        if self.micro_batches > 1:
            share = np.where(work.is_training[:, None], self.shares / self.micro_batches, 1.0)
            held = np.asarray(held * share)
        if self.generation is not None and costs.iteration is not None:
            tokens = self.generation.held_tokens(work.prompt_tokens, work.output_tokens)
            kv = tokens[:, None] * costs.iteration.kv_bytes_per_token[:, None]
            held = np.where(work.is_inference[:, None], kv, held)
        return held

    @property
    def room_bytes(self) -> FloatArray:
        """Most bytes that one task may hold on every GPU, shape (N, S); −inf where none starts."""
        starts = self.resident_bytes <= self.capacity_bytes
        return np.where(starts, self.limit_bytes - self.resident_bytes, -np.inf)

    def fits(self) -> BoolArray:
        """Whether a task fits alone on a node, shape (T, N)."""
        held, room = self.peak_bytes(self.costs), self.room_bytes
        found = np.empty((self.tasks, self.cluster.nodes), dtype=bool)
        # Nodes of one kind are looked at once: costs by task are the largest arrays there are.
        alike: dict[tuple[int, bytes], BoolArray] = {}
        for node, kind in enumerate(self.cluster.node_class.tolist()):
            key = kind, room[node].tobytes()
            if key not in alike:
                alike[key] = _all_at_most(held[kind], room[node])
            found[:, node] = alike[key]
        return found

    @property
    def fits_everywhere(self) -> bool:
        """Whether every task fits alone on every node."""
        peak = self.peak_bytes(self.costs)
        # Column by column, since numpy takes maxima over rows of few entries slowly.
        most = [peak[:, :, s].max(axis=1, initial=0.0) for s in range(self.cluster.stages)]
        return bool(np.all(np.stack(most, axis=1)[self.cluster.node_class] <= self.room_bytes))

    def with_costs(self, costs: Costs) -> Instance:
        """Return the same problem under other costs; the SLO unit stays."""
        return replace(self, costs=costs)

    def window(self, tasks: IntArray, *, shift_s: float = 0.0) -> Instance:
        """Return the problem of some tasks, released `shift_s` earlier; the SLO unit stays."""
        return replace(
            self,
            workload=self.workload.take(tasks, shift_s=shift_s),
            costs=self.costs.take(tasks),
        )

    def __eq__(self, other: object) -> bool:
        return arrays_equal(self, other)

    __hash__ = None  # type: ignore[assignment]
