"""The same seed gives the same schedule in any process, under any hash seed and thread count."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import hashlib, sys
import numpy as np
from experiments.study import Study, build
from lemix_opt import simulate
from solvers.registry import POLICIES

trace = build(Study(tasks=150, seed=3, load=0.9)).trace
found = hashlib.sha256()
for name in sorted(POLICIES.names()):
    schedule = simulate(trace.instance, POLICIES.create(name), actual=trace.actual, seed=5)
    rows = schedule.operations
    for column in (schedule.node, schedule.end_state, schedule.release_s, rows.task, rows.phase,
                   rows.stage, rows.node, rows.start_s, rows.end_s):
        found.update(np.ascontiguousarray(column).tobytes())
print(found.hexdigest())
"""


def digest(**variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def plain() -> str:
    return digest(PYTHONHASHSEED="0")


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONHASHSEED": "1234"},
        {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
        {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        {"NUMBA_DISABLE_JIT": "1"},
    ],
    ids=lambda v: "-".join(v),
)
def test_every_policy_repeats_itself(plain: str, variables: dict[str, str]) -> None:
    """Without compilation, too: the compiled engine computes what its Python text says."""
    assert digest(**variables) == plain
