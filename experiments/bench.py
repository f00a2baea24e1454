"""Benchmarks: solvers on the instances of a suite, beside the best bounds known."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench_summary import summarised, times_summarised
from experiments.workers import Lost, in_order
from instances.benchmarks import Benchmark, BestKnown, BestTable, Mark, suite
from instances.benchmarks.best_known import SAME, improved, read_best_known, write_best_known
from lemix_opt import Result, validate
from lemix_opt.beyond import beyond_exact_model
from lemix_opt.checks import checked_limits, whole
from lemix_opt.errors import FieldError, LemixError, UnsupportedError, unknown
from lemix_opt.evaluation import objective_value
from lemix_opt.interrupt import interruptible
from lemix_opt.resolution import PROOF_TOLERANCE, Resolution
from lemix_opt.result import relative_gap

DIGITS = 9
"""Digits of a bound in seconds that are kept; sums of ticks carry floating-point noise below."""


@dataclass(frozen=True)
class BenchSettings:
    """How every instance is run.

    Parameters
    ----------
    solvers : tuple of str, default ("portfolio",)
        Names of solvers and policies.
    objective : str, default ""
        Name of a weighting of the suite; its first one when empty.
    time_limit_s : float, default 60
        Wall seconds per instance.
    deterministic_limit : float, optional
        Limit in the solver's own time, for repeatable tables of instances that do not close.
    workers : int, default 1
        Threads of a solver.
    seed : int, default 0
        Seed of the solvers.
    """

    solvers: tuple[str, ...] = ("portfolio",)
    objective: str = ""
    time_limit_s: float = 60.0
    deterministic_limit: float | None = None
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        from solvers import list_solvers

        for name in self.solvers:
            if name not in list_solvers():
                raise unknown("solver", name, list_solvers())
        if not self.solvers or len(set(self.solvers)) < len(self.solvers):
            raise FieldError(f"{self.solvers}", where="solver", expected="different names")
        checked_limits(self.time_limit_s, self.deterministic_limit)
        whole("workers", self.workers, minimum=1)
        whole("seed", self.seed, minimum=0)


@dataclass(frozen=True)
class Bench:
    """Tables of one benchmark.

    Parameters
    ----------
    head : dict of str to str
        What was run.
    rows, summary : tuple of dict
        One per instance and solver, and one per cell and solver; deterministic as far as solvers
        ran to completion.
    times, time_summary : tuple of dict
        Wall times of the same; they differ from run to run.
    measured_on : str
        Machine and processes of the times.
    failed : int
        Rows with an error, a broken rule or a wrong bound.
    better : int
        Bounds of the table that were improved.
    cut : str
        What is done, where Ctrl-C has ended the benchmark.
    """

    head: dict[str, str]
    rows: tuple[dict[str, Any], ...]
    summary: tuple[dict[str, Any], ...]
    times: tuple[dict[str, Any], ...]
    time_summary: tuple[dict[str, Any], ...]
    measured_on: str
    failed: int
    better: int
    cut: str = ""


@dataclass(frozen=True)
class _Run:
    row: dict[str, Any]
    took: dict[str, Any]
    result: Result | None = None


def run_bench(
    name: str,
    settings: BenchSettings,
    *,
    seeds: int | None = None,
    limit: int | None = None,
    jobs: int = 1,
    update: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Bench:
    """Run solvers on a suite, one instance after the other in each process.

    Parameters
    ----------
    name : str
        A suite's name or file, see `instances.benchmarks.suite`.
    settings : BenchSettings
        How every instance is run.
    seeds : int, optional
        The first so many instances of every cell; all when omitted.
    limit : int, optional
        The first so many instances of those.
    jobs : int, default 1
        Processes. More than one needs one worker each, so that times can be compared.
    update : Path, optional
        Table of best bounds that is compared with and improved, instead of the packaged one; begun
        as its copy when there is no such file.
    progress : callable, optional
        Called with what is done, how much of it, and out of how much.

    Raises
    ------
    UnknownNameError
        For an unknown suite, solver or objective, before anything runs.
    KeyboardInterrupt
        On Ctrl-C before anything is done; later it ends with what is done.
    """
    jobs = whole("jobs", jobs, minimum=1)
    if jobs > 1 and settings.workers > 1:
        raise FieldError(
            f"{settings.workers} with {jobs} processes", where="workers", expected="1, or one job"
        )
    table = read_best_known(update if update is not None and update.exists() else None)
    chosen = suite(name, seeds=seeds, table=table)
    if limit is not None:
        chosen = chosen[: whole("limit", limit, minimum=1)]
    for benchmark in chosen:
        if benchmark.objective(settings.objective).lexicographic:
            raise UnsupportedError(
                "a lexicographic objective has no single gap", where=benchmark.name
            )
    calls = [(benchmark, solver, settings) for benchmark in chosen for solver in settings.solvers]
    runs, better = [], 0
    cut = ""
    with interruptible(), closing(in_order(run_one, calls, jobs, partial(_lost, calls))) as ended:
        try:
            for done, run in enumerate(ended, 1):
                runs.append(run)
                if update is not None and run.row["error"] is None:
                    try:
                        found = _improved(table, calls[done - 1][0], run, settings)
                    except LemixError as error:
                        run.row["error"] = str(error)
                        found = table
                    if found is not table:
                        table, better = found, better + 1
                        write_best_known(table, update)
                if progress is not None:
                    progress("instances", done, len(calls))
        except KeyboardInterrupt:
            if not runs:
                raise
            cut = f"{len(runs)} of {len(calls)} runs are done"
    if update is not None and not update.exists():
        write_best_known(table, update)
    rows = tuple(run.row for run in runs)
    times = tuple(run.took for run in runs)
    return Bench(
        _head(name, chosen, settings) | ({"INTERRUPTED": cut} if cut else {}),
        rows,
        tuple(summarised(rows)),
        times,
        tuple(times_summarised(times, settings.time_limit_s)),
        f"{machine()}; instances in {jobs} process" + "es" * (jobs > 1),
        sum(row["error"] is not None for row in rows),
        better,
        cut,
    )


def run_one(benchmark: Benchmark, solver: str, settings: BenchSettings) -> _Run:
    """Run one solver on one instance; an error of any kind becomes part of its row."""
    from solvers import solve

    objective = settings.objective or benchmark.default_objective
    best = benchmark.best_known.get(objective, BestKnown())
    row = _begun(benchmark, solver, best)
    begin = time.perf_counter()
    result: Result | None = None
    try:
        result = solve(
            benchmark.instance,
            solver,
            benchmark.objective(objective),
            time_limit_s=settings.time_limit_s,
            deterministic_limit=settings.deterministic_limit,
            seed=settings.seed,
            workers=settings.workers,
        )
        if result.interrupted:
            raise KeyboardInterrupt
        row |= _judged(benchmark, objective, result)
    except LemixError as error:
        row["error"] = f"{type(error).__name__}: {error}"
    except Exception as error:
        # A plug-in may raise anything; the other instances must go on and the row tells.
        row["error"] = f"unexpected {type(error).__name__}: {error}"
    wall_s = time.perf_counter() - begin
    if _contradicts(row):
        row["status"] = "bounds contradict"
        row["error"] = "a lower bound lies above the value of a schedule: one of the two is wrong"
    if row["objective_s"] is not None:
        if row["best_upper_s"]:
            row["above_best"] = row["objective_s"] / row["best_upper_s"] - 1
        if row["best_lower_s"] is not None:
            row["gap_to_best_lower"] = relative_gap(row["objective_s"], row["best_lower_s"])
    took = {name: row[name] for name in ("instance", "cell", "solver", "proves")} | {
        # Without what the first run loads; that is in the wall time.
        "optimal_after_s": result.runtime_s if result and row["status"] == "optimal" else None,
        "best_after_s": _best_after(result, row["objective_s"]),
        "wall_s": wall_s,
    }
    return _Run(row, took, result)


def _begun(benchmark: Benchmark, solver: str, best: BestKnown) -> dict[str, Any]:
    from solvers.registry import SOLVERS

    return {
        "instance": benchmark.name,
        "cell": benchmark.cell,
        "solver": solver,
        "status": "unknown",
        "objective_s": None,
        "lower_bound_s": None,
        "gap": None,
        "best_upper_s": None if best.upper is None else best.upper.value_s,
        "above_best": None,
        "best_lower_s": None if best.lower is None else best.lower.value_s,
        "gap_to_best_lower": None,
        "proves": solver in SOLVERS,
        "error": None,
    }


def _lost(calls: list[tuple[Benchmark, str, BenchSettings]], number: int, lost: Lost) -> _Run:
    """Return the row of a run whose process was killed."""
    benchmark, solver, settings = calls[number]
    objective = settings.objective or benchmark.default_objective
    row = _begun(benchmark, solver, benchmark.best_known.get(objective, BestKnown()))
    took = dict.fromkeys(("optimal_after_s", "best_after_s", "wall_s"))
    kept = {name: row[name] for name in ("instance", "cell", "solver", "proves")}
    return _Run(row | {"error": lost.how}, kept | took)


def _contradicts(row: dict[str, Any]) -> bool:
    """Whether a lower bound, own or best known, lies above a value."""
    lower = [row[n] for n in ("lower_bound_s", "best_lower_s") if row[n] is not None]
    upper = [row[n] for n in ("objective_s", "best_upper_s") if row[n] is not None]
    return bool(lower and upper) and relative_gap(min(upper), max(lower)) < -PROOF_TOLERANCE


def _judged(benchmark: Benchmark, objective: str, result: Result) -> dict[str, Any]:
    """Return what counts of a result: nothing of a schedule that breaks a rule."""
    bound = result.lower_bound
    known = {"lower_bound_s": None if bound is None else float(np.sum(bound))}
    schedule = result.schedule
    if schedule is None:
        error = (
            "the solver calls the instance infeasible" if result.status == "infeasible" else None
        )
        return {"status": result.status, "error": error, **known}
    broken = validate(benchmark.instance, schedule)
    if broken:
        return {"status": "rules broken", "error": str(broken[0].message)}
    if schedule.gave_way:
        # Best known values and bounds are of the exact model.
        text = beyond_exact_model(benchmark.instance, schedule)
        return {"status": "outside the model", "error": text, **known}
    weights = benchmark.objective(objective)
    value = float(np.sum(objective_value(benchmark.instance, schedule, weights)))
    if not np.isfinite(value):
        return {"status": "not all done", "error": "a task is not done", **known}
    low = known["lower_bound_s"]
    gap = None if low is None else Resolution.of(benchmark.instance, weights).gap(value, low)
    found = {"status": result.status, "objective_s": value, "gap": gap, **known}
    if result.status == "optimal" and (gap is None or gap > PROOF_TOLERANCE):
        found |= {"status": "not proven", "error": "called optimal in spite of a gap"}
    return found


def _best_after(result: Result | None, objective_s: float | None) -> float | None:
    if result is None or objective_s is None:
        return None
    reached = (s for s, u, _ in result.trajectory if u is not None and u <= objective_s + SAME)
    return next(reached, None)


def _improved(
    table: BestTable, benchmark: Benchmark, run: _Run, settings: BenchSettings
) -> BestTable:
    result, row = run.result, run.row
    if result is None or result.schedule is None or row["objective_s"] is None:
        return table
    solver = row["solver"]
    made = ", ".join(f"{name} {result.versions[name]}" for name in ("lemix-opt", "ortools"))
    source = {
        "solver": solver,
        "date": datetime.date.today().isoformat(),
        "machine": f"{machine()}, {settings.workers} worker" + "s" * (settings.workers > 1),
        "seconds": round(result.runtime_s, 3),
    }
    upper = Mark(
        round(row["objective_s"], DIGITS), certificate=f"validated schedule ({made})", **source
    )
    lower = None
    if row["lower_bound_s"] is not None:
        how = "proof" if row["status"] == "optimal" else "bound"
        value = round(row["lower_bound_s"], DIGITS)
        lower = Mark(value, certificate=f"{how} of {solver} ({made})", **source)
    objective = settings.objective or benchmark.default_objective
    return improved(table, benchmark, objective, result.schedule, upper, lower)


def machine() -> str:
    """Return processor and cores of this computer."""
    name = platform.processor() or platform.machine()
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        models = (line for line in listed.read_text().splitlines() if line.startswith("model name"))
        name = next(models, f": {name}").partition(":")[2].strip()
    return f"{name}, {os.cpu_count()} cores"


def _head(name: str, chosen: Sequence[Benchmark], settings: BenchSettings) -> dict[str, str]:
    deterministic = settings.deterministic_limit
    return {
        "suite": Path(name).name,
        "source": ", ".join(dict.fromkeys(b.source for b in chosen)),
        "instances": str(len(chosen)),
        "objective": settings.objective or (chosen[0].default_objective if chosen else "none"),
        "limit": f"{settings.time_limit_s:g} s of wall time per instance"
        + ("" if deterministic is None else f", {deterministic:g} deterministic"),
        "solver seed": str(settings.seed),
        "workers": str(settings.workers),
    }
