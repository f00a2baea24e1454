"""`corrected`: a policy whose predicted costs follow the executions that have ended."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lemix_opt.checks import FloatArray, IntArray
from lemix_opt.correction import OnlineCorrection
from lemix_opt.costs import Costs
from lemix_opt.engine.codes import BATCH, EVENTS
from lemix_opt.errors import FieldError, UnsupportedError
from lemix_opt.instance import Instance
from lemix_opt.policy import Assign, BatchObserved, Defer, Event, Policy
from lemix_opt.schedule import BACKWARD, FORWARD

SERVE, TRAIN, BACK = "forward of inference", "forward of training", "backward"
NOISE_S = 1e-9
"""Seconds that ends less starts may be off by rounding; such executions took what was predicted."""


@dataclass
class CorrectedState:
    """The inner policy's state, what it believes, and what has been learned.

    Parameters
    ----------
    policy : Policy
        The inner one.
    predicted, believed : Instance
        As predicted, and as corrected.
    forward_s, backward_s : ndarray, shape (K, T, S)
        The arrays of `believed` that are written to; the inner policy reads them.
    correction : OnlineCorrection
        Factors by node class, operation and stage.
    inner : Any
        State of the inner policy.
    learned : bool
        Whether there is news since the inner policy last revised its own figures.
    begun_s : dict
        Starts of the operations under way, by task, phase and stage.
    """

    policy: Policy
    predicted: Instance
    believed: Instance
    forward_s: FloatArray = field(repr=False)
    backward_s: FloatArray = field(repr=False)
    correction: OnlineCorrection
    inner: Any = None
    learned: bool = False
    begun_s: dict[tuple[int, int, int], float] = field(default_factory=dict, repr=False)

    def write(self, tasks: IntArray, forward_s: FloatArray, backward_s: FloatArray) -> None:
        """Write the corrected costs of some tasks into arrays of shape (K, T, S)."""
        told, trains = self.predicted.costs, self.predicted.workload.is_training[tasks]
        parts = (
            (SERVE, tasks[~trains], told.forward_s, forward_s),
            (TRAIN, tasks[trains], told.forward_s, forward_s),
            (BACK, tasks[trains], told.backward_s, backward_s),
        )
        for operation, rows, told_s, into_s in parts:
            if not rows.size:
                continue
            for k, s in np.ndindex(told.classes, told.stages):
                group = (k, operation, s)
                into_s[k, rows, s] = self.correction.correct(group, told_s[k, rows, s])

    def revised(self) -> Instance:
        """Return the instance with the corrected costs of all tasks."""
        costs = self.predicted.costs
        forward_s, backward_s = costs.forward_s.copy(), costs.backward_s.copy()
        self.write(np.arange(costs.tasks), forward_s, backward_s)
        return self.predicted.with_costs(replace(costs, forward_s=forward_s, backward_s=backward_s))


@dataclass(frozen=True)
class Corrected:
    """A policy whose predicted costs are corrected by executions as they end.

    Every forward and backward that ends tells by which factor its group was mispredicted
    (`lemix_opt.correction.OnlineCorrection`; groups are node class, within it forwards of requests,
    of training, and backwards, within these the stage). The policy sees the costs of a task as
    corrected when it is asked about it; what it has placed keeps the costs it was placed with, so
    that books which add a task's costs and take them off again stay right. The rule
    ``gpu_order="reserve"`` goes by the same beliefs. Nothing is known of an operation before it
    has ended. Hops, updates, memory and SLOs stay as predicted; where requests generate tokens,
    only training is learned from, since prefills are not observed apart.

    ``corrected:NAME`` is the policy ``NAME``, corrected, wherever a policy is named.

    Parameters
    ----------
    policy : str or Policy, default "lemix"
        A name in the registry, or a policy. One that computes figures from the costs in `start`
        may have a method ``revise(state, instance)``, which is called with the corrected costs of
        all tasks before a decision.
    correction : OnlineCorrection, optional
        Settings of the correction; what it has learned already is not used.
    """

    policy: str | Policy = "lemix"
    correction: OnlineCorrection = field(default_factory=OnlineCorrection)

    def __post_init__(self) -> None:
        if isinstance(self._created(), Corrected):
            raise FieldError("corrected already", where="policy", expected="another policy")

    def _created(self) -> Policy:
        from solvers.registry import POLICIES

        return POLICIES.create(self.policy) if isinstance(self.policy, str) else self.policy

    @property
    def observes(self) -> tuple[str, ...]:
        """Events it is told; the running batches where the inner policy asks for them."""
        return (*EVENTS, BATCH) if BATCH in getattr(self._created(), "observes", ()) else EVENTS

    def start(self, instance: Instance, rng: np.random.Generator) -> CorrectedState:
        """Start the policy on costs that will change.

        Raises
        ------
        UnsupportedError
            With micro-batches, whose seconds are not observed one by one.
        """
        if instance.micro_batches > 1:
            raise UnsupportedError(
                f"correction with {instance.micro_batches} micro-batches: what is observed is the "
                "first one's start and the last one's end, with all that came between",
                where="instance.micro_batches",
                expected="1",
            )
        policy, believed = self._created(), instance.with_costs(_copied(instance.costs))
        state = CorrectedState(
            policy,
            instance,
            believed,
            _writable(believed.costs.forward_s),
            _writable(believed.costs.backward_s),
            self.correction.fresh(),
        )
        state.inner = policy.start(believed, rng)
        return state

    def believed(self, state: CorrectedState) -> Instance:
        """Return the instance whose costs are the present beliefs."""
        return state.believed

    def decide(self, state: CorrectedState, now_s: float, task: int) -> Assign | Defer:
        """Correct the task's costs, and pass the question on."""
        state.write(np.array([task]), state.forward_s, state.backward_s)
        revise = getattr(state.policy, "revise", None)
        if state.learned and revise is not None:
            revise(state.inner, state.revised())
            state.learned = False
        return state.policy.decide(state.inner, now_s, task)

    def observe(self, state: CorrectedState, event: Event | BatchObserved) -> None:
        """Learn from what has ended, and pass the event on if the policy wants it."""
        if isinstance(event, Event) and event.phase in (FORWARD, BACKWARD):
            self._learn(state, event)
        kind = BATCH if isinstance(event, BatchObserved) else event.kind
        if kind in getattr(state.policy, "observes", EVENTS):
            state.policy.observe(state.inner, event)

    @staticmethod
    def _learn(state: CorrectedState, event: Event) -> None:
        task, node, phase, stage = event.task, event.node, event.phase, event.stage
        instance = state.predicted
        if instance.generation is not None and not instance.workload.is_training[task]:
            return
        key = task, phase, stage
        if event.kind == "start":
            state.begun_s[key] = event.time_s
        elif event.kind == "end" and key in state.begun_s:
            took_s = event.time_s - state.begun_s.pop(key)
            columns = instance.costs.forward_s if phase == FORWARD else instance.costs.backward_s
            kind = int(instance.cluster.node_class[node])
            told_s = float(columns[kind, task, stage])
            if told_s <= 0 or took_s <= 0:
                return
            if abs(took_s - told_s) <= NOISE_S:
                took_s = told_s
            forward = TRAIN if instance.workload.is_training[task] else SERVE
            operation = forward if phase == FORWARD else BACK
            state.correction.observe((kind, operation, stage), told_s, took_s)
            state.learned = True


def _copied(costs: Costs) -> Costs:
    """Return costs with arrays of their own, in the order that compiled policies read."""
    forward, backward = (np.ascontiguousarray(a) for a in (costs.forward_s, costs.backward_s))
    return replace(costs, forward_s=forward, backward_s=backward)


def _writable(array: FloatArray) -> FloatArray:
    """Return a view of a read-only array that owns its data, through which it can be written."""
    array.setflags(write=True)
    view = array.view()
    array.setflags(write=False)
    return view
