"""Run a LeMix study: every variant, condition and seed, and what comes of it per cell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.conditions import Condition
from experiments.lemix_grids import BASE, DEFAULT, Grid, Variant
from experiments.paired import paired
from experiments.tables import Column, text_table, write_parquet
from experiments.workers import in_order
from lemix_opt import evaluate, simulate
from lemix_opt.checks import whole
from lemix_opt.files import made_folder, write_atomically
from lemix_opt.interrupt import interruptible
from lemix_opt.load import offered_load
from lemix_opt.result import versions

Row = dict[str, Any]
CELL = ("forward_s", "training_share", "rate_per_s", "noise", "room")
METRICS = (
    "load",
    "nodes_effective",
    "slo_attainment_5x",
    "response_mean_completed_s",
    "response_p99_s",
    "throughput_per_s",
    "throughput_per_node_s",
)
LOW_LOAD, HIGH_LOAD = 0.1, 0.9
FEW_NODES, MANY_NODES = 1.5, 3.5
"""Effective nodes wanted of the default: at most, up to `LOW_LOAD`; at least, from `HIGH_LOAD`."""
BANDS = ((0.0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 2.0), (2.0, float("inf")))


@dataclass(frozen=True)
class StudyTables:
    """Tables of a study.

    Parameters
    ----------
    runs : list of dict
        One row per condition, seed and variant.
    cells : list of dict
        One row per condition and variant: means over seeds, and the paired difference of the
        attainment to that of `BASE` with its 95 % interval.
    times : list of dict
        Wall seconds per condition; they differ from run to run.
    provenance : str
        Where lengths and times come from.
    cut : str
        What is done, where Ctrl-C has ended the study.
    """

    runs: list[Row]
    cells: list[Row]
    times: list[Row]
    provenance: str
    cut: str = ""


def run_cell(
    condition: Condition, variants: Sequence[Variant], seeds: int
) -> tuple[list[Row], float, str]:
    """Run all seeds and variants of one condition; return rows, wall seconds and provenance."""
    from solvers.registry import POLICIES

    begin = time.perf_counter()
    rows: list[Row] = []
    said = ""
    for seed in range(seeds):
        drawn = replace(condition, seed=seed)
        trace = drawn.problem()
        said = trace.provenance
        load = offered_load(trace.instance)
        for variant in variants:
            policy = POLICIES.create(variant.policy, **variant.parameters)
            instance = replace(trace.instance, **variant.rules)
            schedule = simulate(instance, policy, actual=trace.actual, seed=seed)
            score = evaluate(instance, schedule).as_dict() | {"load": load}
            done = score["inference_done"] + score["training_done"]
            rows.append(
                {name: getattr(drawn, name) for name in (*CELL, "seed")}
                | {"variant": variant.label}
                | {name: score[name] for name in METRICS}
                | {"done": done, "tasks": score["tasks"]}
            )
    return rows, time.perf_counter() - begin, said


def run_study(
    grids: Iterable[Grid],
    *,
    seeds: int = 10,
    jobs: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> StudyTables:
    """Run grids; the tables are the same for any number of processes.

    Parameters
    ----------
    grids : iterable of Grid
        What to run.
    seeds : int, default 10
        Paired seeds, at least 2.
    jobs : int, default 1
        Processes.
    progress : callable, optional
        Called with what is done, how much of it, and out of how much.
    """
    seeds = whole("seeds", seeds, minimum=2)
    calls = [(cell, grid.variants, seeds) for grid in grids for cell in grid.cells]
    runs: list[Row] = []
    times: list[Row] = []
    said = ""
    jobs, cut = whole("jobs", jobs, minimum=1), ""
    with interruptible(), closing(in_order(run_cell, calls, jobs)) as ended:
        try:
            for done, (rows, wall_s, said) in enumerate(ended, 1):  # noqa: B007
                cell = calls[done - 1][0]
                runs += rows
                times.append({name: getattr(cell, name) for name in CELL} | {"wall_s": wall_s})
                if progress is not None:
                    progress("cells", done, len(calls))
        except KeyboardInterrupt:
            if not times:
                raise
            cut = f"INTERRUPTED: {len(times)} of {len(calls)} cells are done"
    return StudyTables(runs, summarise(runs), times, said, cut)


def summarise(runs: Sequence[Row]) -> list[Row]:
    """Return means over seeds per condition and variant, with differences to `BASE`."""
    grouped: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
    for row in runs:
        cell = grouped.setdefault(tuple(row[name] for name in CELL), {})
        cell.setdefault(row["variant"], []).append(row)
    cells: list[Row] = []
    for key, variants in grouped.items():
        base = np.array([row["slo_attainment_5x"] for row in variants[BASE]])
        for label, rows in variants.items():
            values = np.array([row["slo_attainment_5x"] for row in rows])
            mean, low, high = paired(values, base)
            means = {name: float(np.mean([row[name] for row in rows])) for name in METRICS}
            cells.append(
                dict(zip(CELL, key, strict=True))
                | {"variant": label, "seeds": len(rows)}
                | means
                | {"attainment_difference": mean, "difference_low": low, "difference_high": high}
                | {"unfinished": sum(row["tasks"] - row["done"] for row in rows)}
                | {"fails": ", ".join(_fails(means, high))}
            )
    return cells


def _fails(means: Row, high: float) -> list[str]:
    """Return what of the default's aims a variant misses in a cell."""
    effective, load = means["nodes_effective"], means["load"]
    missed = {
        "attainment below mix-rr": high < 0,
        "too many nodes": load <= LOW_LOAD and effective > FEW_NODES,
        "too few nodes": load >= HIGH_LOAD and effective < MANY_NODES,
    }
    return [name for name, is_missed in missed.items() if is_missed]


def bands(cells: Sequence[Row]) -> list[Row]:
    """Return means over the cells of a band of load, per variant, noise and memory."""
    found: list[Row] = []
    for noise, room in dict.fromkeys((row["noise"], row["room"]) for row in cells):
        alike = [row for row in cells if (row["noise"], row["room"]) == (noise, room)]
        for low, high in BANDS:
            inside = [row for row in alike if low <= row["load"] < high]
            for label in dict.fromkeys(row["variant"] for row in inside):
                rows = [row for row in inside if row["variant"] == label]
                found.append(
                    {"noise": noise, "room": room, "band": f"{low:g}-{high:g}", "variant": label}
                    | {"cells": len(rows), "failing": sum(bool(row["fails"]) for row in rows)}
                    | {
                        name: float(np.mean([row[name] for row in rows]))
                        for name in (*METRICS[1:], "attainment_difference")
                    }
                    | {"worse": sum(row["difference_high"] < 0 for row in rows)}
                    | {"unfinished": sum(row["unfinished"] for row in rows)}
                )
    return found


_SHOWN = (
    Column("nodes_effective", "effective nodes", 2),
    Column("slo_attainment_5x", "SLO 5x [%]", 1, True),
    Column("attainment_difference", "minus mix-rr [%]", 1, True),
)
_SPEED = (
    Column("response_mean_completed_s", "resp. mean [s]"),
    Column("response_p99_s", "p99 [s]", 2),
    Column("throughput_per_s", "tasks/s", 2),
    Column("throughput_per_node_s", "tasks/node-s", 2),
)
BAND_COLUMNS = (
    Column("noise", "noise", 1),
    Column("room", "room", 0),
    Column("band", "load"),
    Column("variant", "variant"),
    Column("cells", "cells"),
    *_SHOWN,
    Column("worse", "worse"),
    Column("failing", "failing"),
    Column("unfinished", "tasks not done"),
    *_SPEED,
)
CELL_COLUMNS = (
    Column("noise", "noise", 1),
    Column("room", "room", 0),
    Column("forward_s", "forward [s]", 2),
    Column("training_share", "training", 1),
    Column("rate_per_s", "rate [1/s]", 0),
    Column("load", "load", 3),
    Column("variant", "variant"),
    *_SHOWN,
    Column("difference_low", "from", 1, True),
    Column("difference_high", "to", 1, True),
    *_SPEED,
    Column("fails", "fails"),
)


def study_text(tables: StudyTables) -> str:
    """Return head, bands of load, failing cells of the default, and all cells."""
    cells = tables.cells
    seeds = cells[0]["seeds"]
    failing = [row for row in cells if row["variant"] == DEFAULT and row["fails"]]
    ran = {tuple(row[name] for name in CELL) for row in cells if row["variant"] == DEFAULT}
    return "\n".join(
        [
            tables.provenance,
            *([tables.cut] if tables.cut else []),
            f"{seeds} paired seeds, {len(tables.runs)} runs; differences to {BASE} with 95 % "
            "intervals (Student's t over seeds); worse: cells whose interval lies below 0",
            "room: memory of a GPU in mean activations of a training task; 0: it plays no part",
            "load: predicted GPU seconds of all tasks / (GPUs x seconds from the first to the last "
            "release of a request)",
            f"failing: attainment below {BASE}, or effective nodes > {FEW_NODES} at load <= "
            f"{LOW_LOAD}, or < {MANY_NODES} at load >= {HIGH_LOAD}",
            "",
            "Means over cells",
            text_table(bands(cells), BAND_COLUMNS),
            "",
            f"Failing cells of {DEFAULT}: {len(failing)} of {len(ran)}",
            *([text_table(failing, CELL_COLUMNS)] if failing else []),
            "",
            "All cells",
            text_table(cells, CELL_COLUMNS),
            "",
        ]
    )


def write_study(tables: StudyTables, folder: Path) -> list[Path]:
    """Write tables as Parquet and text, times apart; return the files."""
    made_folder(folder)
    said = {"provenance": tables.provenance, **versions()}
    said |= {"cut": tables.cut} if tables.cut else {}
    write_parquet(tables.runs, folder / "runs.parquet", said)
    write_parquet(tables.cells, folder / "cells.parquet", said)
    write_parquet(tables.times, folder / "times.parquet", {})
    write_atomically(folder / "study.txt", study_text(tables).encode())
    return [
        folder / name for name in ("study.txt", "runs.parquet", "cells.parquet", "times.parquet")
    ]
