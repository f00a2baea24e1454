"""Every step around a simulation beside it and the event heap, from 10,000 to a million tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("tasks", [10_000, 100_000, 1_000_000])
def test_steps(benchmark: Any, tasks: int) -> None:
    """CPU seconds and MB of growth by step; a process of its own, so that peaks are the step's."""
    measure(benchmark, str(tasks), "json")


@pytest.mark.parametrize("requests", [10_000, 100_000, 500_000])
def test_served_runs(benchmark: Any, requests: int) -> None:
    """Validation of continuous batching beside its simulation, up to 8.8 million iterations."""
    measure(benchmark, "served", str(requests))


def measure(benchmark: Any, *asked: str) -> None:
    """Run the script and keep what it printed."""
    here = Path(__file__).resolve().parent

    def run() -> str:
        return subprocess.run(
            [sys.executable, str(here / "whole_path.py"), *asked],
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(here.parents[1]), str(here)))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    for line in benchmark.pedantic(run, rounds=1).splitlines():
        name, amount, mb = line.split()
        benchmark.extra_info[name] = amount if name == "iterations" else f"{amount}_s_{mb}_MB"
