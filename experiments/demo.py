"""The demo's problem: what a recorded run would have been on more nodes."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np

from experiments.study import Problem, slo_objective
from instances.trace_files import read_trace
from lemix_opt.cluster import Cluster
from lemix_opt.costs import Costs
from lemix_opt.errors import FieldError
from lemix_opt.grid import ticks_up, to_seconds
from lemix_opt.instance import Instance
from lemix_opt.replaying import replay
from lemix_opt.trace import Trace

SLO_UNITS = 5.0


def packaged(seed: int = 0) -> Path:
    """Return the place of a recording that the package carries.

    Two runs of `lemix record` with its defaults on a CPU, of seed 0 and of seed 1.
    """
    return Path(str(resources.files("instances") / "recordings" / f"cpu-seed{seed}.trace.zip"))


def demo_problem(path: Path, nodes: int) -> Problem:
    """Build the comparison of policies on a recorded trace.

    Parameters
    ----------
    path : Path
        A trace with an executed schedule, recorded with nodes of one class.
    nodes : int
        Nodes to compare on. They are taken to be like the recorded ones: every task takes there
        what it took when it was recorded.

    Raises
    ------
    FieldError
        If the trace has no schedule, or nodes of several classes.
    """
    trace = read_trace(path)
    plan, recorded = trace.schedule, trace.instance
    if plan is None or recorded.costs.classes > 1:
        raise FieldError(
            "no schedule" if plan is None else f"{recorded.costs.classes} classes of nodes",
            where=str(path),
            expected="an executed run on nodes of one class",
        )
    shift = replay(trace, plan).end_shift_s
    largest = 0.0 if shift is None else float(np.nanmax(np.abs(shift), initial=0.0))
    problem = _on(trace, nodes)
    instance = problem.instance
    work, unit = instance.workload, float(instance.slo_unit_s or np.nan)
    objective = slo_objective(instance)
    end_s = float(plan.operations.end_s.max(initial=0.0))
    head = {
        "truth": f"{trace.truth}: {trace.provenance}",
        "recorded": f"{work.tasks} tasks on {recorded.cluster.nodes} x {recorded.cluster.stages} "
        f"stages in {end_s:.3f} s; its own schedule replayed on recorded costs ends every task "
        f"within {largest:.3g} s of the recording",
        "cluster": f"{nodes} nodes x {recorded.cluster.stages} stages, counterfactual: every task "
        "takes on any node what it took when recorded",
        "training": f"{work.is_training.mean():.3f} of {work.tasks} tasks, {instance.release_mode}",
        "SLO": f"{SLO_UNITS:g} units of {unit:.4f} s = {SLO_UNITS * unit:.3f} s",
        "grid": f"releases and predicted costs rounded up to {instance.tick_s:g} s; actual costs "
        "as recorded",
        "objective": f"4 x inference response + training response + "
        f"{objective.late_penalty_s:.4g} s per late request, in seconds",
    }
    return Problem(problem, 0, objective, head, ())


def _on(trace: Trace, nodes: int) -> Trace:
    """Return the tasks of a trace on some nodes like its own, for tables without its schedule."""
    recorded, tick = trace.instance, trace.instance.tick_s

    def up(costs: Costs) -> Costs:
        return replace(
            costs,
            forward_s=to_seconds(ticks_up(costs.forward_s, tick), tick),
            backward_s=to_seconds(ticks_up(costs.backward_s, tick), tick),
        )

    work, cluster = recorded.workload, recorded.cluster
    memory = np.repeat(cluster.memory_bytes.min(axis=0)[None], nodes, axis=0)
    slo_s = SLO_UNITS * float(recorded.slo_unit_s or np.nan)
    work = replace(
        work,
        release_s=to_seconds(ticks_up(work.release_s, tick), tick),
        slo_s=np.where(work.is_inference, slo_s, np.inf),
    )
    instance = Instance(
        Cluster(nodes, cluster.stages, memory),
        work,
        up(recorded.costs),
        release_mode=recorded.release_mode,
        gpu_order="reserve",
        tick_s=tick,
        slo_unit_s=recorded.slo_unit_s,
    )
    return Trace(instance, trace.actual, trace.truth, trace.provenance)
