"""The same problem stated in PyJobShop, an extra that nothing else needs.

Placement is a choice of modes tied by mode dependencies; the memory of a training task on a stage
is a task of its own that may be stretched, from the start of the forward to the end of the
backward.
"""

from __future__ import annotations

from typing import Any

from peers_textbook import Outcome

from lemix_opt import Instance, Objective
from solvers.exact.data import tick_data


def solve_job_shop(
    instance: Instance, objective: Objective, limit_s: float, workers: int
) -> Outcome:
    """Minimise weighted responses and lateness; one node class, closed loop A-PP, no hops."""
    from pyjobshop import Model

    data, work, tick = tick_data(instance, bound=False), instance.workload, instance.tick_s
    nodes, stages = range(instance.cluster.nodes), range(instance.cluster.stages)
    weight = [objective.inference_response, objective.training_response]
    # Weights of late jobs are multiplied by the job's own in PyJobShop.
    late = round(objective.late_penalty_s / tick / weight[0])
    model = Model()
    gpu = {(n, s): model.add_machine() for n in nodes for s in stages}
    room = {(n, s): model.add_renewable(int(data.room[n, s])) for n in nodes for s in stages}
    event: Any = None
    for i in range(instance.tasks):
        trains, release = bool(work.is_training[i]), int(data.release[i])
        due = data.horizon if trains else release + round(work.slo_s[i] / tick)
        job = model.add_job(weight=round(weight[int(trains)]), release_date=release, due_date=due)
        before, tied = None, None
        forward: list[Any] = []
        steps = [(data.forward, s) for s in stages]
        steps += [(data.backward, s) for s in reversed(stages)] if trains else []
        for k, (table, s) in enumerate(steps):
            task, need = model.add_task(job, earliest_start=release), int(data.held[0, i, s])
            modes = []
            for n in nodes:
                uses, demands = [gpu[n, s]], [0]
                if not trains:
                    uses, demands = [gpu[n, s], room[n, s]], [0, need]
                modes.append(model.add_mode(task, uses, int(table[0, i, s]), demands))
            tied = _tie(model, tied, modes)
            if before is not None:
                model.add_end_before_start(before, task)
            if k < len(stages):
                forward.append(task)
            else:
                hold = model.add_task(allow_idle=True)
                holds = [model.add_mode(hold, [room[n, s]], 1, [need]) for n in nodes]
                _tie(model, tied, holds)
                model.add_start_at_start(hold, forward[s])
                model.add_end_at_end(hold, task)
            before = task
        if trains:
            if event is not None:
                model.add_end_before_start(event, forward[0])
            event = forward[0]
    model.set_objective(weight_total_flow_time=1, weight_tardy_jobs=late)
    result = model.solve(time_limit=limit_s, display=False, num_workers=workers)
    bound = result.lower_bound * tick
    return Outcome(result.status.name == "OPTIMAL", result.objective * tick, bound)


def _tie(model: Any, first: list[Any] | None, modes: list[Any]) -> list[Any]:
    """Let a task run on the node of the one before."""
    for one, other in zip(first or (), modes, strict=False):
        model.add_mode_dependency(one, [other])
    return modes
