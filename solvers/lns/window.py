"""One window: some tasks of a state are scheduled again by the exact model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from ortools.sat.python import cp_model

from lemix_opt.checks import IntArray
from lemix_opt.errors import UnsupportedError
from lemix_opt.objective import Objective
from solvers.exact.data import TickData
from solvers.exact.hints import hint
from solvers.exact.limits import Limits
from solvers.exact.model import build
from solvers.exact.parts import Parts
from solvers.exact.readout import Key, schedule_from
from solvers.exact.search import search
from solvers.exact.terms import levels
from solvers.lns.rest import rest_of
from solvers.lns.scene import Scene
from solvers.lns.state import State, merged
from solvers.search.plan import starts_by_key

PARTS = Parts(area=False, energy=False, symmetry=False, assignment=False)
"""What looks at the whole cluster does not know of the work that stays as it is."""


@dataclass(frozen=True)
class Window:
    """What a window has found.

    Parameters
    ----------
    state : State, optional
        The best one found, which may be the one it started from; None without any.
    proven : bool
        Whether no better one exists in the window.
    interrupted : bool
        Whether Ctrl-C ended it.
    """

    state: State | None
    proven: bool
    interrupted: bool


def search_window(
    scene: Scene,
    data: TickData,
    objective: Objective,
    free: IntArray,
    kept: IntArray,
    limits: Limits,
    *,
    workers: int,
    seed: int,
) -> Window:
    """Schedule some tasks again.

    Parameters
    ----------
    scene, data, objective
        What is improved, and by what it is judged.
    free : ndarray of int
        Tasks of which everything is open.
    kept : ndarray of int
        Tasks that keep their nodes and their order among each other, but not their starts. All
        others stay as they are.
    limits : Limits
        Of this window.
    """
    instance, state = scene.instance, scene.state
    tasks = np.sort(np.concatenate([free, kept]))
    rest, release, horizon = rest_of(scene, data, objective, tasks, kept)
    own = instance.window(tasks)
    part = replace(data.take(tasks), release=release, horizon=horizon)
    model = build(own, part, PARTS, horizon=horizon, check=limits.check, rest=rest)
    stated = levels(own, model, objective, PARTS, bound=False)
    starts = starts_by_key(instance, state.start, tasks)
    hint(model, own, part, PARTS, schedule_from(own, state.place[tasks], starts))
    heard: list[tuple[IntArray, dict[Key, int]]] = []
    for level in stated:
        model.cp.minimize(level.expression)
        found = search(
            model.cp,
            limits,
            1.0,
            workers=workers,
            seed=seed,
            linear=False,
            presolve=False,
            hear=lambda value: heard.append(model.read(value)),
        )
        if found.status == cp_model.MODEL_INVALID:
            raise UnsupportedError(
                "the model's numbers do not fit into 64 bits",
                where="tick_s",
                expected="a longer tick, or smaller weights",
            )
        if found.status != cp_model.OPTIMAL or found.interrupted:
            break
        model.cp.add(level.expression <= round(found.value))
    best = merged(state, tasks, *heard[-1]) if heard else None
    proven = found.status in (cp_model.OPTIMAL, cp_model.INFEASIBLE)
    return Window(best, proven, found.interrupted)
