"""A comparison on paper: text, Parquet, Gantt charts and a Perfetto trace in one folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.comparison import Comparison
from experiments.gantt import can_plot, save_gantt
from experiments.notes import notes_lines
from experiments.perfetto import MOST_OPERATIONS, write_perfetto
from experiments.tables import Column, text_table, write_parquet
from experiments.windows import cut
from instances.trace_files import write_trace
from lemix_opt.files import made_folder, write_atomically

_RESPONSE = (
    Column("response_p50_s", "resp. p50 [s]"),
    Column("response_p95_s", "p95 [s]"),
    Column("response_p99_s", "p99 [s]"),
    Column("slo_attainment_5x", "SLO 5x [%]", 1, True),
    Column("bubble_rate", "bubble [%]", 1, True),
)
RUN_COLUMNS = (
    Column("name", "policy"),
    Column("actual_objective_s", "objective [s]"),
    *_RESPONSE,
    Column("slo_attainable_5x", "attainable [%]", 1, True),
    Column("nodes_used", "nodes"),
    Column("nodes_effective", "effective", 2),
    Column("throughput_per_s", "tasks/s", 2),
    Column("inference_done", "served"),
    Column("training_done", "trained"),
    Column("dropped", "dropped"),
    Column("deferred", "deferred"),
    Column("rules_broken", "rules broken"),
)
SUMMARY_COLUMNS = (
    Column("name", "solver"),
    Column("in_model", "in model"),
    Column("closed", "proven"),
    Column("objective_s", "objective [s]"),
    Column("lower_bound_s", "bound [s]"),
    Column("gap_to_bound", "gap to bound [%]", 2, True),
    Column("above_optimum", "above optimum [%]", 2, True),
    Column("above_optimum_worst", "worst [%]", 2, True),
    Column("actual_objective_s", "actual obj. [s]"),
    *_RESPONSE,
    Column("nodes_used", "nodes", 2),
)
WRITTEN = (
    "report.txt",
    "times.txt",
    "run.parquet",
    "times.parquet",
    "windows.parquet",
    "summary.parquet",
    "trace.zip",
    "run-*.perfetto.json.gz",
    "window-*.png",
)
"""Files that a comparison writes."""
TIME_COLUMNS = (
    Column("name", "solver"),
    Column("decisions", "decisions"),
    Column("decision_us", "per decision [us]", 3),
    Column("wall_s", "total [s]", 6),
)


def report_text(comparison: Comparison) -> str:
    """Head, both tables and the foot; the same text for the same study in any process."""
    problem = comparison.problem
    width = max(map(len, problem.head))
    lines = [f"{name:{width}s}  {value}" for name, value in problem.head.items()]
    lines += [comparison.cut] if comparison.cut else []
    lines += ["", "Whole run: times and objective measured in a replay on actual costs"]
    lines.append(text_table(comparison.run, RUN_COLUMNS))
    lines += notes_lines(comparison.run)
    if comparison.summary:
        total = max(row["windows"] for row in comparison.summary)
        proven = max(row["closed"] for row in comparison.summary)
        size = max(row["tasks"] for row in comparison.windows)
        lines += ["", f"{total} windows of at most {size} tasks, each from an empty cluster"]
        lines.append(text_table(comparison.summary, SUMMARY_COLUMNS))
        lines += notes_lines(comparison.summary)
        lines += [
            "objective, bound: sums over a row's windows in the model, on predicted costs; "
            "bound by the exact solver",
            f"above optimum: objective / proven optimum - 1 over the windows that are proven "
            f"({proven} of {total}) and in the model; the others only have the gap to the bound, "
            "(objective - bound) / objective",
            "in model: windows whose schedule keeps every rule of the exact model; the others get "
            "no gap",
            "actual objective, responses, bubble: over all windows, replayed on actual costs",
        ]
    lines += ["", *problem.foot] if problem.foot else []
    return "\n".join(lines) + "\n"


def times_text(comparison: Comparison) -> str:
    """Wall time per decision, or per window of a solver; differs from run to run."""
    names = dict.fromkeys(row["name"] for row in comparison.times)
    rows: list[dict[str, Any]] = []
    for name in names:
        mine = [row for row in comparison.times if row["name"] == name]
        decisions = sum(row["decisions"] for row in mine)
        wall = float(sum(row["wall_s"] for row in mine))
        per = 1e6 * wall / decisions if decisions else None
        rows.append({"name": name, "decisions": decisions, "decision_us": per, "wall_s": wall})
    said = [
        "per decision: mean wall time of a policy's decision alone, without compilation,",
        "event loop and books; of compiled policies in machine code, of others around",
        "`decide` in Python.",
        "Of the exact solver: per window.",
    ]
    return "\n".join(["Wall times, measured here", text_table(rows, TIME_COLUMNS), *said, ""])


def write_report(
    comparison: Comparison, folder: Path, operations: int | None = MOST_OPERATIONS
) -> list[Path]:
    """Write everything into a folder, which is made when missing; return the files.

    Files of an earlier comparison are removed first. Without matplotlib the charts are left out.
    Perfetto traces show the first `operations`.

    Raises
    ------
    LemixError
        If the folder cannot be made.
    """
    made_folder(folder)
    trace = comparison.problem.trace
    for name in WRITTEN:
        for stale in folder.glob(name):
            stale.unlink()
    said = {**comparison.problem.head, "foot": "; ".join(comparison.problem.foot)}
    said |= {"cut": comparison.cut} if comparison.cut else {}
    written: list[Path] = []

    def put(name: str, write: Callable[[Path], None]) -> None:
        write(folder / name)
        written.append(folder / name)

    put("report.txt", lambda p: write_atomically(p, report_text(comparison).encode()))
    put("times.txt", lambda p: write_atomically(p, times_text(comparison).encode()))
    put("run.parquet", lambda p: write_parquet(comparison.run, p, said))
    put("times.parquet", lambda p: write_parquet(comparison.times, p, said))
    if comparison.windows:
        put("windows.parquet", lambda p: write_parquet(comparison.windows, p, said))
        put("summary.parquet", lambda p: write_parquet(comparison.summary, p, said))
    put("trace.zip", lambda p: write_trace(trace, p))
    truth = comparison.problem.head["truth"]
    for name, schedule in comparison.schedules.items():
        put(
            f"run-{_file_part(name)}.perfetto.json.gz",
            lambda p, s=schedule: write_perfetto(trace.instance, s, p, truth, operations),  # type: ignore[misc]
        )
    first = comparison.first_window
    if first is not None and can_plot():
        window = cut(trace, first.rows[0]["tasks"])[0].instance
        for name, schedule in first.schedules.items():
            title = f"{name}, first window, predicted costs ({trace.truth} study)"
            put(
                f"window-{_file_part(name)}.png",
                lambda p, s=schedule, t=title: save_gantt(window, s, p, t),  # type: ignore[misc]
            )
    return written


def _file_part(name: str) -> str:
    """Return a solver's name as a file may be called: not all systems allow a colon."""
    return name.replace(":", "-")
