"""Gantt charts: bars are the operations, and the picture is the one that was looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.gantt import plot_gantt, save_gantt
from lemix_opt import Cluster, Costs, Instance, Schedule, Workload, simulate
from lemix_opt.errors import FieldError
from lemix_opt.policy import FixedAssignment


def late_and_training() -> tuple[Instance, Schedule]:
    shape = (1, 4, 2)
    costs = Costs(np.ones(shape), 2 * np.ones(shape), np.zeros(shape), np.zeros((1, 2)), 0.5)  # type: ignore[arg-type]
    work = Workload(
        np.array([1, 0, 0, 0]), np.zeros(4), np.ones(4, int), np.ones(4, int), slo_s=np.full(4, 3.5)
    )
    instance = Instance(Cluster(2, 2, np.full((2, 2), 1.0)), work, costs)
    return instance, simulate(instance, FixedAssignment((0, 0, 1, 1)))


@pytest.mark.parametrize("rules", [{}, {"pipeline": "1f1b", "micro_batches": 2}])
def test_bars_are_the_operations(rules: dict[str, Any]) -> None:
    instance, _ = late_and_training()
    instance = replace(instance, **rules)
    schedule = simulate(instance, FixedAssignment((0, 0, 1, 1)))
    axes = plot_gantt(instance, schedule)
    bars = [p for p in axes.patches if p.get_width() > 0]  # type: ignore[attr-defined]
    rows = schedule.operations
    drawn = sorted((b.get_y() + b.get_height() / 2, b.get_x(), b.get_width()) for b in bars)  # type: ignore[attr-defined]
    meant = sorted(
        zip(rows.node * 2 + rows.stage, rows.start_s, rows.end_s - rows.start_s, strict=True)
    )
    assert np.allclose(drawn, meant)
    assert axes.get_xlabel() == "time [s]"
    late = sum(bool(b.get_hatch()) for b in bars)
    assert late == 2


def test_it_draws_where_it_is_told_and_shows_nothing() -> None:
    instance, schedule = late_and_training()
    axes = Figure().subplots()
    assert plot_gantt(instance, schedule, ax=axes) is axes


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_files_are_written_whole(tmp_path: Path, ending: str) -> None:
    instance, schedule = late_and_training()
    save_gantt(instance, schedule, tmp_path / f"g.{ending}")
    assert (tmp_path / f"g.{ending}").stat().st_size > 1000
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(FieldError, match="png, svg, pdf"):
        save_gantt(instance, schedule, tmp_path / "g.gif")


def test_an_empty_schedule_has_axes_too() -> None:
    instance, schedule = late_and_training()
    none = replace(
        schedule, operations=schedule.operations.take(np.array([], int)), end_state=np.full(4, 3)
    )
    assert plot_gantt(instance, none).get_xlabel() == "time [s]"


@pytest.mark.mpl_image_compare(
    style="default", remove_text=True, tolerance=12, savefig_kwargs={"dpi": 60}
)
def test_gantt_picture() -> Any:
    instance, schedule = late_and_training()
    # Fixed axes and no text: versions of matplotlib measure text differently.
    axes = Figure(figsize=(8, 3)).add_axes((0.05, 0.1, 0.9, 0.8))
    plot_gantt(instance, schedule, ax=axes)
    axes.get_legend().remove()  # type: ignore[union-attr]
    return axes.figure
