"""`unprofiled`: a policy that starts without a profile, as in the paper's ablation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lemix_opt.checks import floats
from lemix_opt.costs import Costs
from lemix_opt.engine.compiled import CompiledPolicy, Machine
from lemix_opt.engine.view import view_of
from lemix_opt.errors import FieldError
from lemix_opt.instance import Instance
from lemix_opt.policy import Assign, BatchObserved, Defer, Event
from lemix_opt.schedule import BACKWARD, FORWARD

FORWARD_ETA, BACKWARD_ETA = 2e-6, 1e-6
"""Seconds per row and squared token that the published code assumes (pejoule/LeMix, a87f280)."""


class FirstDurations:
    """Coefficients in seconds per row and squared token, set once by what ends first.

    Parameters
    ----------
    instance : Instance
        Rows and lengths of the tasks.
    forward_eta, backward_eta : float
        What is believed until then.
    """

    def __init__(self, instance: Instance, forward_eta: float, backward_eta: float) -> None:
        work = instance.workload
        self.sizes = (work.batch * work.prompt_tokens.astype(np.float64) ** 2).tolist()
        self.eta = {FORWARD: forward_eta, BACKWARD: backward_eta}
        self._unknown = {FORWARD, BACKWARD}
        self._begun: dict[tuple[int, int, int], float] = {}

    def learn(self, event: Event) -> bool:
        """Take note of a start or an end; return whether a coefficient has been set by it."""
        if event.phase not in self._unknown:
            return False
        key = event.task, event.phase, event.stage
        if event.kind == "start":
            self._begun[key] = event.time_s
        elif event.kind == "end" and key in self._begun:
            seconds = event.time_s - self._begun[key]
            if seconds > 0:
                self.eta[event.phase] = seconds / self.sizes[event.task]
                self._unknown.discard(event.phase)
                return True
        return False


@dataclass
class UnprofiledState:
    """The inner policy's state, and what is believed of the costs."""

    inner: CompiledPolicy
    machine: Machine
    instance: Instance
    learned: FirstDurations = field(repr=False)


@dataclass(frozen=True)
class Unprofiled:
    """A compiled policy that does not know the predicted costs of the instance.

    It believes in η·rows·length² on every stage, without hops and updates. The first forward and
    the first backward that end set the coefficients, once, as in the published code. Memory,
    token generation and the SLO unit are known; the rules of the GPUs still go by the instance's
    predictions.

    Parameters
    ----------
    policy : str, default "lemix"
        Name of a compiled policy in the registry.
    forward_eta, backward_eta : float, default 2e-6, 1e-6
        Seconds per row and squared token at the start, as published.
    """

    policy: str = "lemix"
    forward_eta: float = FORWARD_ETA
    backward_eta: float = BACKWARD_ETA

    def __post_init__(self) -> None:
        floats("forward_eta", self.forward_eta, (), above=0)
        floats("backward_eta", self.backward_eta, (), above=0)

    def start(self, instance: Instance, rng: np.random.Generator) -> UnprofiledState:
        """Start the policy on costs that are believed."""
        from solvers.registry import POLICIES

        inner = POLICIES.create(self.policy)
        if not isinstance(inner, CompiledPolicy):
            raise FieldError(f"{self.policy!r}", where="policy", expected="a compiled policy")
        learned = FirstDurations(instance, self.forward_eta, self.backward_eta)
        believed = _believed(instance, learned)
        return UnprofiledState(inner, inner.start(believed, rng), instance, learned)

    def decide(self, state: UnprofiledState, now_s: float, task: int) -> Assign | Defer:
        """Pass the question on."""
        return state.inner.decide(state.machine, now_s, task)

    def observe(self, state: UnprofiledState, event: Event | BatchObserved) -> None:
        """Learn from what has ended, and pass the event on."""
        if isinstance(event, Event) and state.learned.learn(event):
            view = view_of(_believed(state.instance, state.learned))
            state.machine = state.machine._replace(view=view)
        state.inner.observe(state.machine, event)


def _believed(instance: Instance, learned: FirstDurations) -> Instance:
    costs, trains = instance.costs, instance.workload.is_training
    size = np.asarray(learned.sizes)[None, :, None]
    same = np.ones_like(costs.forward_s)
    return instance.with_costs(
        Costs(
            learned.eta[FORWARD] * size * same,
            learned.eta[BACKWARD] * size * same * trains[None, :, None],
            costs.held_bytes,
            costs.resident_bytes,
            iteration=costs.iteration,
        )
    )
