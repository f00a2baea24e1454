"""Neighbourhoods: which tasks of a state are scheduled again together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lemix_opt.checks import BoolArray, FloatArray, IntArray
from solvers.lns.scene import Scene

Neighbourhood = Callable[[Scene, int, np.random.Generator], IntArray]
"""Takes a scene, how many tasks to free at most, and randomness; returns the tasks."""


def near(scene: Scene, size: int, rng: np.random.Generator) -> IntArray:
    """Free tasks that run at about the same time as one of them, on any node."""
    chosen = rng.integers(scene.instance.tasks)
    return _closest(
        scene, scene.middle[chosen], size, np.ones(scene.instance.tasks, dtype=np.bool_)
    )


def on_nodes(scene: Scene, size: int, rng: np.random.Generator) -> IntArray:
    """Free what one or two nodes do within a window of time."""
    chosen = rng.integers(scene.instance.tasks)
    nodes = [scene.state.place[chosen]]
    if rng.random() < 0.5:
        nodes.append(rng.integers(scene.instance.cluster.nodes))
    return _closest(scene, scene.middle[chosen], size, np.isin(scene.state.place, nodes))


def along_loop(scene: Scene, size: int, rng: np.random.Generator) -> IntArray:
    """Free a large training task, its neighbours in the closed loop, and requests beside them."""
    training = np.flatnonzero(scene.instance.workload.is_training)
    if not training.size:
        return near(scene, size, rng)
    weight = scene.work.forward[:, training].sum(axis=2).max(axis=0).astype(np.float64)
    at = int(rng.choice(training.size, p=weight / weight.sum()))
    loop = np.zeros(scene.instance.tasks, dtype=np.bool_)
    loop[training[max(at - size // 4, 0) : at + size // 4 + 1]] = True
    beside = loop | scene.instance.workload.is_inference
    middle = scene.middle
    distance = np.where(loop, -1.0, np.abs(middle - middle[training[at]]))
    return _least(np.where(beside, distance, np.inf), min(size, int(beside.sum())))


def anywhere(scene: Scene, size: int, rng: np.random.Generator) -> IntArray:
    """Free any tasks."""
    return rng.permutation(scene.instance.tasks)[:size]


def costly(scene: Scene, size: int, rng: np.random.Generator) -> IntArray:
    """Free a task that costs much beyond its least, and what its node did while it was there."""
    excess = scene.excess
    if not excess.any():
        return near(scene, size, rng)
    chosen = int(rng.choice(excess.size, p=excess / excess.sum()))
    view, state = scene.view, scene.state
    in_way = (view.last > scene.work.release[chosen]) & (view.first < view.last[chosen])
    in_way &= state.place == state.place[chosen]
    middle = scene.middle
    distance = np.abs(middle - middle[chosen])
    # What is in the way comes first, then what runs at the same time elsewhere.
    distance[~in_way] += distance.max() + 1
    distance[chosen] = -1.0
    return _least(distance, size)


NEIGHBOURHOODS: dict[str, Neighbourhood] = {
    "near": near,
    "nodes": on_nodes,
    "loop": along_loop,
    "random": anywhere,
    "costly": costly,
}
"""All neighbourhoods by name."""


def around(scene: Scene, free: IntArray, most: int) -> IntArray:
    """Return the tasks nearest in time to those that are freed."""
    middle = scene.middle
    others = np.ones(middle.size, dtype=np.bool_)
    others[free] = False
    begin, end = scene.view.first[free].min(), scene.view.last[free].max()
    others &= (scene.view.last > begin) & (scene.view.first < end)
    return _closest(scene, float(middle[free].mean()), most, others)


def _closest(scene: Scene, moment: float, size: int, among: BoolArray) -> IntArray:
    distance = np.where(among, np.abs(scene.middle - moment), np.inf)
    return _least(distance, min(size, int(among.sum())))


def _least(distance: FloatArray, size: int) -> IntArray:
    return np.argsort(distance, kind="stable")[:size]
