"""The recordings that the package carries, and what the demo makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.demo import demo_problem, packaged
from instances.trace_files import read_trace, write_trace
from lemix_opt import LemixError, replay, validate


@pytest.mark.parametrize("seed", [0, 1])
def test_a_packaged_recording_replays_to_its_own_times(seed: int) -> None:
    trace = read_trace(packaged(seed))
    assert packaged(seed).stat().st_size < 100_000
    assert (trace.truth, trace.instance.tasks) == ("recorded", 60)
    assert trace.schedule is not None
    assert validate(trace.instance, trace.schedule) == []
    for timing in ("order", "planned"):
        assert replay(trace, trace.schedule, timing).schedule == trace.schedule
    said = trace.recording.provenance  # type: ignore[union-attr]
    assert "torch" in said.tools
    assert f"seed {seed}" in said.source


def test_the_problem_keeps_arrivals_and_actual_costs(tmp_path: Path) -> None:
    trace = read_trace(packaged())
    problem = demo_problem(packaged(), 3)
    late = problem.trace.instance.workload.release_s - trace.instance.workload.release_s
    assert (problem.trace.instance.cluster.nodes, problem.trace.actual) == (3, trace.actual)
    assert ((late >= 0) & (late <= 0.001)).all()
    longer = problem.trace.instance.costs.forward_s - trace.actual.forward_s
    assert ((longer >= 0) & (longer <= 0.001)).all()
    assert np.isfinite(problem.trace.instance.workload.slo_s).sum() == 42
    assert "within 0 s of the recording" in problem.head["recorded"]
    write_trace(replace(trace, schedule=None), tmp_path / "t.zip")
    with pytest.raises(LemixError, match=r"t\.zip: no schedule; expected an executed run"):
        demo_problem(tmp_path / "t.zip", 2)
