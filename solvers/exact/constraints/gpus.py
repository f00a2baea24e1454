"""A GPU runs one operation at a time; a stage of the cluster as many as there are nodes."""

from __future__ import annotations

from solvers.exact.readout import Key
from solvers.exact.variables import Model


def one_at_a_time(model: Model) -> None:
    """State the disjunctive constraint of every GPU, and what order on it is kept."""
    for gpu, runs in model.runs.items():
        taken = [
            model.cp.new_fixed_size_interval_var(begin, end - begin, "")
            for begin, end in model.rest.busy.get(gpu, ())
        ]
        if runs and len(runs) + len(taken) > 1:
            model.cp.add_no_overlap([*(run for _, run in runs), *taken])
    for before, behind in model.rest.order:
        model.cp.add(model.start[behind] >= model.end[before] + _tail(model, before))


def _tail(model: Model, key: Key) -> int:
    chain = model.chain[key[0]]
    return int(chain.tail[0, chain.steps.index(key[1:])])


def area(model: Model, nodes: int, stages: int) -> None:
    """Let at most N operations run on a stage over the whole cluster.

    Redundant, but it needs no placement, so that heads, tails and energy are seen by the relaxation
    as on N parallel machines. Sizes are those of the fastest node.
    """
    if nodes < 2:
        return
    for s in range(stages):
        runs = []
        for i, chain in enumerate(model.chain):
            for k, (phase, stage) in enumerate(chain.steps):
                size = int((chain.length[:, k] + chain.tail[:, k]).min())
                if stage == s and size:
                    start = model.start[i, phase, s]
                    runs.append(model.cp.new_fixed_size_interval_var(start, size, ""))
        if len(runs) > nodes:
            model.cp.add_cumulative(runs, [1] * len(runs), nodes)
