"""The same problem as a plain CP-SAT model, as a textbook states it: one interval per mode."""

from __future__ import annotations

from dataclasses import dataclass

from ortools.sat.python import cp_model

from lemix_opt import Instance, Objective
from solvers.exact.data import tick_data


@dataclass(frozen=True)
class Outcome:
    """Objective and bound in seconds as the peer reports them; None where it has none."""

    proven: bool
    objective: float | None
    bound: float | None


def solve_textbook(
    instance: Instance, objective: Objective, limit_s: float, workers: int
) -> Outcome:
    """Minimise weighted responses and lateness; one node class, closed loop A-PP, no hops."""
    data = tick_data(instance, bound=False)
    cp, horizon, work = cp_model.CpModel(), data.horizon, instance.workload
    nodes, stages = range(instance.cluster.nodes), range(instance.cluster.stages)
    gpus = {(n, s): [] for n in nodes for s in stages}
    memory = {(n, s): ([], []) for n in nodes for s in stages}
    cost, constant, event = [], 0.0, None
    for i in range(instance.tasks):
        trains = bool(work.is_training[i])
        on = [cp.new_bool_var("") for _ in nodes]
        cp.add_exactly_one(on)
        steps = [(data.forward, s) for s in stages]
        steps += [(data.backward, s) for s in reversed(stages)] if trains else []
        starts, ends = [], []
        for table, s in steps:
            size = int(table[0, i, s])
            start = cp.new_int_var(int(data.release[i]), horizon, "")
            end = cp.new_int_var(0, horizon, "")
            cp.add(end == start + size)
            if ends:
                cp.add(start >= ends[-1])
            for n in nodes:
                gpus[n, s].append(cp.new_optional_interval_var(start, size, end, on[n], ""))
            starts.append(start)
            ends.append(end)
        if trains:
            if event is not None:
                cp.add(starts[0] >= event)
            event = ends[0]
        for s in stages:
            last = len(steps) - 1 - s if trains else s
            size = cp.new_int_var(0, horizon, "")
            for n in nodes:
                hold = cp.new_optional_interval_var(starts[s], size, ends[last], on[n], "")
                memory[n, s][0].append(hold)
                memory[n, s][1].append(int(data.held[0, i, s]))
        weight = objective.training_response if trains else objective.inference_response
        cost.append(round(weight * 1000) * ends[-1])
        constant -= weight * float(work.release_s[i])
        if not trains:
            late = cp.new_bool_var("")
            due = round((work.release_s[i] + work.slo_s[i]) / instance.tick_s)
            cp.add(ends[-1] <= due).only_enforce_if(~late)
            cost.append(round(1000 * objective.late_penalty_s / instance.tick_s) * late)
    for gpu, runs in gpus.items():
        cp.add_no_overlap(runs)
        cp.add_cumulative(*memory[gpu], int(data.room[gpu]))
    cp.minimize(sum(cost))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limit_s
    solver.parameters.num_workers = workers
    status = solver.solve(cp)
    unit = instance.tick_s / 1000
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Outcome(False, None, None)
    return Outcome(
        status == cp_model.OPTIMAL,
        solver.objective_value * unit + constant,
        solver.best_objective_bound * unit + constant,
    )
