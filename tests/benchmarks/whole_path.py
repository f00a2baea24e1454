"""Seconds and memory of all steps around a simulation, in one process; prints one line per step.

Usage: python tests/benchmarks/whole_path.py [TASKS] [json] [served REQUESTS]

Every line has the step's name, CPU seconds, and the MB by which the process grew at most while it
ran. `json` adds the forms that are not the default for many tasks; `served` simulates and validates
a run of continuous batching in place of all other steps.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from large import repeated
from yardsticks import event_heap

import instances
from instances.schedule_files import read_schedule, write_schedule
from instances.trace_files import read_trace, write_trace
from lemix_opt import (
    Cluster,
    Costs,
    Generation,
    Instance,
    Objective,
    Trace,
    Workload,
    evaluate,
    replay,
    simulate,
    validate,
)
from lemix_opt.evaluation import objective_value
from predictors import estimate_costs, load_calibration
from predictors.iterations import load_iterations, serving_costs
from predictors.model_shapes import model_shape
from solvers import solve
from solvers.registry import POLICIES

CALIBRATION, SHAPE = "llama-13b-a100", "llama-13b"
OBJECTIVE = Objective(makespan=1.0, inference_response=1.0, late_penalty_s=1.0, idle=0.1)


def _memory_kib(kind: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{kind}:")[1].split()[0])


def step(name: str, run: Callable[[], Any]) -> Any:
    """Run a step, print what it took, return what it made."""
    # Resets the peak; not ru_maxrss, which a new process inherits.
    Path("/proc/self/clear_refs").write_text("5")
    before, start = _memory_kib("VmRSS"), time.process_time()
    made = run()
    took = time.process_time() - start
    peak = (_memory_kib("VmHWM") - before) / 1024
    print(f"{name.replace(' ', '_')} {took:.3f} {peak:.0f}", flush=True)
    return made


def shaken(costs: Costs) -> Costs:
    """Return costs in which every forward and backward takes up to a tenth more or less."""
    rng = np.random.default_rng(0)
    forward, backward = (
        column * rng.uniform(0.9, 1.1, column.shape)
        for column in (costs.forward_s, costs.backward_s)
    )
    return replace(costs, forward_s=forward, backward_s=backward)


def served(requests: int) -> Instance:
    """Replicas of llama-13b under Poisson arrivals at the load of the growth benchmark."""
    rng = np.random.default_rng(0)
    prompt, output = rng.integers(50, 1000, requests), rng.geometric(1 / 200, requests)
    release_s = np.cumsum(rng.exponential(1 / 8, requests))
    work = Workload(np.zeros(requests, dtype=np.int64), release_s, 1, prompt, output)
    costs = serving_costs(work, load_iterations(CALIBRATION), stages=1)
    return Instance(Cluster(4, 1, 80 * 2.0**30), work, costs, generation=Generation())


def run_served(requests: int) -> None:
    """Simulate and validate a run of continuous batching."""
    small, instance, policy = served(100), served(requests), POLICIES.create("jsq")
    validate(small, simulate(small, policy))
    schedule = step("simulate served", lambda: simulate(instance, policy))
    step("validate served", lambda: validate(instance, schedule))
    assert schedule.generated is not None
    print(f"iterations {schedule.generated.iterations.rows} 0")


def run_steps(tasks: int, with_json: bool) -> None:
    """Run all steps on so many tasks."""
    instance = repeated(tasks)
    work, costs = instance.workload, instance.costs
    heap = (
        work.release_s,
        costs.forward_s[0].copy(),
        costs.backward_s[0].copy(),
        work.is_training,
        instance.cluster.nodes,
    )
    step("event heap", lambda: event_heap(*heap))
    columns = (work.kind, work.release_s, work.batch, work.prompt_tokens)
    step("Workload", lambda: Workload(*columns, slo_s=work.slo_s))
    arrays = (costs.forward_s, costs.backward_s, costs.held_bytes, costs.resident_bytes)
    step("Costs", lambda: Costs(*arrays, costs.update_s, costs.hop_s))
    step("Instance", lambda: Instance(instance.cluster, work, costs))
    model, shape = load_calibration(CALIBRATION).time_model(), model_shape(SHAPE)
    step("estimate_costs", lambda: estimate_costs(work, model, shape, stages=costs.stages))
    schedule = step("simulate lemix", lambda: simulate(instance, POLICIES.create("lemix")))
    step("validate", lambda: validate(instance, schedule))
    step("evaluate", lambda: evaluate(instance, schedule))
    step("objective_value", lambda: objective_value(instance, schedule, OBJECTIVE))
    trace = Trace(instance, costs, "synthetic", "a benchmark", schedule)
    other = Trace(instance, shaken(costs), "synthetic", "a benchmark")
    step("replay as planned", lambda: replay(trace, schedule, "planned"))
    step("replay under other costs", lambda: replay(other, schedule))
    step("solve lemix", lambda: solve(instance, "lemix"))
    endings = [".zip", *([".json", ".json.gz"] if with_json else [])]
    with tempfile.TemporaryDirectory() as folder:
        for ending in endings:
            path = Path(folder) / f"file{ending}"
            step(f"write instance {ending}", lambda p=path: instances.write(instance, p))
            back = step(f"read instance {ending}", lambda p=path: instances.read(p))
            assert back == instance
            del back
            step(f"write schedule {ending}", lambda p=path: write_schedule(schedule, p))
            back = step(f"read schedule {ending}", lambda p=path: read_schedule(p))
            assert np.array_equal(back.operations.end_s, schedule.operations.end_s)
            del back
        path = Path(folder) / "trace.zip"
        step("write trace", lambda: write_trace(trace, path))
        step("read trace", lambda: read_trace(path))
        if with_json:
            packed = Path(folder) / "packed.zip"
            step("write packed", lambda: instances.write(instance, packed, compress=True))
            step("read packed", lambda: instances.read(packed))


if __name__ == "__main__":
    # Imports and compilation, before anything is measured.
    small = repeated(10)
    heap_of_ten = (
        small.workload.release_s,
        small.costs.forward_s[0].copy(),
        small.costs.backward_s[0].copy(),
        small.workload.is_training,
        4,
    )
    event_heap(*heap_of_ten)
    done = simulate(small, POLICIES.create("lemix"))
    with tempfile.TemporaryDirectory() as first:
        instances.write(small, Path(first) / "a.zip")
        instances.read(Path(first) / "a.zip")
    asked = sys.argv[1:]
    if asked[:1] == ["served"]:
        run_served(int(asked[1]))
        sys.exit()
    validate(small, done)
    replay(Trace(small, small.costs, "synthetic", "a benchmark"), done)
    solve(small, "lemix")
    run_steps(int(asked[0]) if asked else 1_000_000, "json" in asked)
