"""A benchmark on paper: two tables of what was found, two of how long it took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.bench import Bench
from experiments.bench_summary import SHIFT_S
from experiments.tables import Column, text_table, write_parquet
from lemix_opt.files import made_folder, write_atomically

RUN_COLUMNS = (
    Column("instance", "instance"),
    Column("solver", "solver"),
    Column("status", "status"),
    Column("objective_s", "objective [s]"),
    Column("lower_bound_s", "bound [s]"),
    Column("gap", "gap [%]", 2, True),
    Column("best_upper_s", "best known [s]"),
    Column("above_best", "above it [%]", 2, True),
    Column("best_lower_s", "best bound [s]"),
    Column("gap_to_best_lower", "gap to it [%]", 2, True),
    Column("error", "error"),
)
SUMMARY_COLUMNS = (
    Column("cell", "cell"),
    Column("solver", "solver"),
    Column("instances", "instances"),
    Column("solved", "solved"),
    Column("proven", "proven"),
    Column("median_gap", "median gap [%]", 2, True),
    Column("compared", "best known"),
    Column("median_above_best", "median above it [%]", 2, True),
    Column("reached_best", "reached"),
    Column("beat_best", "beaten"),
)
TIME_COLUMNS = (
    Column("instance", "instance"),
    Column("solver", "solver"),
    Column("optimal_after", "to optimality [s]"),
    Column("best_after_s", "to its best [s]"),
    Column("wall_s", "wall [s]"),
)
TIME_SUMMARY_COLUMNS = (
    Column("cell", "cell"),
    Column("solver", "solver"),
    Column("instances", "instances"),
    Column("proven", "proven"),
    Column("geometric_mean_s", "shifted geometric mean [s]"),
    Column("wall_s", "wall [s]"),
)


def report_text(bench: Bench) -> str:
    """Head, the table per instance and the one over seeds; no times."""
    width = max(map(len, bench.head))
    lines = [f"{name:{width}s}  {value}" for name, value in bench.head.items()]
    failed = any(row["error"] for row in bench.rows)
    columns = RUN_COLUMNS if failed else RUN_COLUMNS[:-1]
    lines += ["", text_table(bench.rows, columns), ""]
    lines += [
        "gap: (objective - bound) / objective, with the solver's own bound and with the best one "
        "known; above best known: objective / best known - 1; - where nothing is known",
        "only schedules that keep every rule count",
        "",
        "Over seeds",
        text_table(bench.summary, SUMMARY_COLUMNS),
        "best known: instances with a best-known value, by which the next three columns go; "
        "median gap: over all instances, 100 % without a schedule or a bound",
    ]
    return "\n".join(lines) + "\n"


def times_text(bench: Bench, limit_s: float) -> str:
    """Wall times, per instance and over seeds; they differ from run to run."""
    rows: list[dict[str, Any]] = []
    for row in bench.times:
        after: str | None = None
        if row["optimal_after_s"] is not None:
            after = f"{row['optimal_after_s']:.3f}"
        elif row["proves"]:
            after = f"> {limit_s:g}"
        rows.append(dict(row) | {"optimal_after": after})
    lines = [
        f"Wall times, measured here: {bench.measured_on}",
        text_table(rows, TIME_COLUMNS),
        "",
        "Over seeds",
        text_table(bench.time_summary, TIME_SUMMARY_COLUMNS),
        f"shifted geometric mean of the time to optimality, shift {SHIFT_S:g} s; instances that "
        f"are not proven count with the limit of {limit_s:g} s; policies prove nothing",
    ]
    return "\n".join(lines) + "\n"


def write_bench(bench: Bench, folder: Path, limit_s: float) -> list[Path]:
    """Write all tables into a folder, which is made when missing; return the files.

    Raises
    ------
    LemixError
        If the folder cannot be made.
    """
    made_folder(folder)
    texts = {"report.txt": report_text(bench), "times.txt": times_text(bench, limit_s)}
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    tables = {
        "results.parquet": bench.rows,
        "summary.parquet": bench.summary,
        "times.parquet": bench.times,
        "time_summary.parquet": bench.time_summary,
    }
    for name, rows in tables.items():
        write_parquet(rows, folder / name, bench.head)
    return [folder / name for name in (*texts, *tables)]
