"""No prior profile: beliefs at the start, and the first durations that set them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import instances

from lemix_opt import Cluster, Costs, Event, Instance, Workload
from lemix_opt.engine import simulate
from lemix_opt.errors import FieldError
from lemix_opt.schedule import BACKWARD, FORWARD
from solvers.online.lemix import Lemix
from solvers.online.reference import LemixReference
from solvers.online.unprofiled import Unprofiled


def squared(forward_eta: float, backward_eta: float) -> Instance:
    """Build an instance whose costs are the published code's model."""
    rng = np.random.default_rng(4)
    tokens = rng.integers(50, 400, 60)
    kind = rng.integers(0, 2, 60)
    size = 2.0 * tokens[None, :, None].astype(float) ** 2 * np.ones((1, 1, 2))
    costs = Costs(forward_eta * size, backward_eta * size * kind[None, :, None], 0.0, 0.0)
    release_s = np.sort(rng.uniform(0, 60 * forward_eta * size.mean(), 60))
    return Instance(Cluster(3, 2, 1.0), Workload(kind, release_s, 2, tokens), costs)


def test_coefficients_are_those_of_the_first_ends() -> None:
    instance = squared(5e-6, 7e-6)
    state = Unprofiled().start(instance, np.random.default_rng(0))
    assert state.learned.eta == {FORWARD: 2e-6, BACKWARD: 1e-6}
    policy = Unprofiled()
    for task, phase, stage, seconds in ((0, FORWARD, 1, 3.0), (1, FORWARD, 0, 9.0)):
        for kind, at in (("start", 1.0), ("end", 1.0 + seconds)):
            policy.observe(state, Event(kind, at, task, 0, phase, stage, 0.0))
    rows_tokens2 = 2 * float(instance.workload.prompt_tokens[0]) ** 2
    assert state.learned.eta[FORWARD] == pytest.approx(3.0 / rows_tokens2)
    assert state.learned.eta[BACKWARD] == 1e-6
    believed = state.machine.view.forward_s[0, 5, 1]
    assert believed == pytest.approx(
        3.0 * instance.workload.prompt_tokens[5] ** 2 * 2 / rows_tokens2
    )


def test_right_beliefs_change_nothing() -> None:
    instance = squared(2e-6, 1e-6)
    plain = simulate(instance, Lemix())
    assert simulate(instance, Unprofiled()).node.tolist() == plain.node.tolist()
    known = LemixReference(variant="pure")
    blind = LemixReference(variant="pure", profile=False)
    assert simulate(instance, blind).node.tolist() == simulate(instance, known).node.tolist()


def test_wrong_beliefs_are_corrected_by_the_first_ends() -> None:
    instance = squared(1e-4, 5e-5)
    policy = LemixReference(profile=False)
    state = policy.start(instance, np.random.default_rng(0))
    for kind, at in (("start", 0.0), ("end", 4.0)):
        policy.observe(state, Event(kind, at, 0, 0, FORWARD, 0, 0.0))
    size = 2 * float(instance.workload.prompt_tokens[0]) ** 2
    assert state.forward_eta == pytest.approx(4.0 / size)
    assert state.backward_eta == 1e-6


@given(instances(max_tasks=20))
@settings(max_examples=50, deadline=None)
def test_everything_still_ends(instance: Instance) -> None:
    assert simulate(instance, Unprofiled()).complete


def test_only_compiled_policies_can_be_blinded() -> None:
    with pytest.raises(FieldError, match="a compiled policy"):
        simulate(squared(1e-5, 1e-5), Unprofiled("lemix-reference"))
    with pytest.raises(FieldError, match="forward_eta"):
        Unprofiled(forward_eta=0.0)
