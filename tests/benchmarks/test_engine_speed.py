"""Speed and memory of the engine, beside an event heap that knows no rules; see `make bench`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from large import repeated
from yardsticks import event_heap

from lemix_opt import Assign, Instance, simulate
from solvers.registry import POLICIES

TASKS = 1_000_000


def numbers_of(script: str) -> list[float]:
    """Run a script in a process of its own; return the numbers it prints."""
    here = Path(__file__).resolve().parent
    path = os.pathsep.join(str(folder) for folder in (here.parents[1], here))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(word) for word in done.stdout.split()]


class TurnsInPython:
    """Round robin as a user writes it first."""

    observes = ()

    def start(self, instance: Instance, rng: np.random.Generator) -> int:
        return instance.cluster.nodes

    def decide(self, state: int, now_s: float, task: int) -> Assign:
        return Assign(task % state)

    def observe(self, state: int, event: Any) -> None:
        raise AssertionError("it asked for no events")


@pytest.fixture(scope="module")
def million() -> Instance:
    return repeated(TASKS, gpu_order="fifo")


def rate(benchmark: Any, tasks: int) -> None:
    benchmark.extra_info["million_tasks_per_s"] = round(
        tasks / benchmark.stats.stats.median / 1e6, 3
    )


def test_yardstick_event_heap(benchmark: Any, million: Instance) -> None:
    columns = (
        million.workload.release_s,
        million.costs.forward_s[0].copy(),
        million.costs.backward_s[0].copy(),
        million.workload.is_training,
        million.cluster.nodes,
    )
    event_heap(*columns)
    benchmark.pedantic(event_heap, columns, rounds=5)
    rate(benchmark, TASKS)


@pytest.mark.parametrize("order", ["fifo", "reserve"])
@pytest.mark.parametrize("name", ["lemix", "mix-rr", "jsq", "in Python"])
def test_engine(benchmark: Any, million: Instance, name: str, order: str) -> None:
    policy = TurnsInPython() if name == "in Python" else POLICIES.create(name)
    instance = Instance(million.cluster, million.workload, million.costs, gpu_order=order)
    schedule = benchmark.pedantic(simulate, (instance, policy), rounds=5, warmup_rounds=1)
    assert schedule.complete
    rate(benchmark, TASKS)


@pytest.mark.parametrize("load", [0.9, 1.5])
@pytest.mark.parametrize("tasks", [10_000, 100_000, 1_000_000])
def test_growth(benchmark: Any, tasks: int, load: float) -> None:
    """Seconds per task stay the same; at load 1.5 the backlog grows all the time."""
    instance = repeated(tasks, load=load, gpu_order="fifo")
    benchmark.pedantic(simulate, (instance, POLICIES.create("mix-rr")), rounds=5, warmup_rounds=1)
    rate(benchmark, tasks)


def test_peak_memory(benchmark: Any) -> None:
    """Peak of a million tasks with lemix, above what the imports take; instance included."""
    script = (
        "from large import repeated\n"
        "from lemix_opt import simulate\n"
        "from solvers.registry import POLICIES\n"
        # Not ru_maxrss: a new process inherits that of the one that started it.
        "status = lambda: open('/proc/self/status').read()\n"
        "peak = lambda: int(status().split('VmHWM:')[1].split()[0]) / 1024\n"
        "simulate(repeated(10), POLICIES.create('lemix'))\n"
        "imports = peak()\n"
        "instance = repeated(1_000_000)\n"
        "built = peak()\n"
        "schedule = simulate(instance, POLICIES.create('lemix'))\n"
        "print(imports, built, peak())\n"
    )

    imports, built, peak = benchmark.pedantic(numbers_of, (script,), rounds=1)
    benchmark.extra_info["mb_above_imports"] = round(peak - imports)
    benchmark.extra_info["mb_of_building_the_instance"] = round(built - imports)


def test_loading_the_compiled_kernel(benchmark: Any) -> None:
    """Seconds a user waits for compiled code that is in the cache, beside the imports."""
    script = (
        "import time\n"
        "import lemix_opt.engine, solvers.online.lemix\n"
        "start = time.perf_counter()\n"
        "lemix_opt.engine.run.kernel(); solvers.online.lemix.Lemix.functions()\n"
        "print(time.perf_counter() - start)\n"
    )

    numbers_of(script)
    times = [numbers_of(script)[0] for _ in range(3)]
    benchmark.extra_info["s_to_load"] = sorted(round(seconds, 3) for seconds in times)
    benchmark.pedantic(numbers_of, (script,), rounds=1)
