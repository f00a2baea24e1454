"""Sweeps: every cell of a grid once, in local processes, kept one by one as it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.notes import notes_of
from experiments.study import Study, build, slo_objective
from experiments.sweep_config import Cell
from experiments.sweep_store import TABLES, opened, read_cell, write_cell
from experiments.tables import write_parquet
from experiments.workers import Lost, answers
from lemix_opt import evaluate, replay, validate
from lemix_opt.checks import whole
from lemix_opt.errors import LemixError
from lemix_opt.interrupt import interruptible, without_exceptions
from lemix_opt.objective import Objective
from lemix_opt.result import versions
from lemix_opt.trace import Trace


@dataclass(frozen=True)
class SweepState:
    """What a sweep did.

    Parameters
    ----------
    rows, times : list of dict
        One per cell, in the grid's order; times differ from run to run.
    ran, kept, failed, left : int
        Cells run now, taken over from before, with an error, and left over by Ctrl-C, of which
        there are no rows.
    """

    rows: list[dict[str, Any]]
    times: list[dict[str, Any]]
    ran: int
    kept: int
    failed: int
    left: int = 0


def run_cell(cell: Cell) -> dict[str, Any]:
    """Run one cell; an error of any kind becomes part of its row."""
    begin = time.perf_counter()
    row = _begun(cell)
    try:
        row |= _solved(cell)
    except LemixError as error:
        row["error"] = f"{type(error).__name__}: {error}"
    except Exception as error:
        # A plug-in may raise anything; the other cells must go on and the row tells.
        row["error"] = f"unexpected {type(error).__name__}: {error}"
    return {"row": row, "wall_s": time.perf_counter() - begin}


def _solved(cell: Cell) -> dict[str, Any]:
    import instances
    from solvers import solve
    from solvers.registry import POLICIES

    if cell.source.startswith("{"):
        problem = build(Study(**json.loads(cell.source), seed=cell.seed))
        trace, objective = problem.trace, problem.objective
    else:
        instance = instances.read(cell.source)
        trace = Trace(instance, instance.costs, "synthetic", "predictions come true")
        objective = slo_objective(instance)
    if cell.objective:
        objective = Objective(**json.loads(cell.objective))
    result = solve(
        trace.instance,
        cell.solver,
        objective,
        time_limit_s=cell.time_limit_s,
        deterministic_limit=cell.deterministic_limit,
        seed=cell.seed,
        **json.loads(cell.parameters),
    )
    found: dict[str, Any] = {
        "status": result.status,
        "objective_s": _plain(result.objective),
        "lower_bound_s": _plain(result.lower_bound),
        "gap": result.gap,
        "note": result.explanation,
        "truth": trace.truth,
        "outside_lemix": "all-reduce" if np.any(trace.instance.costs.all_reduce_s > 0) else "",
    }
    if result.schedule is not None:
        broken = validate(trace.instance, result.schedule)
        found["rules_broken"] = len(broken)
        found |= notes_of(trace.instance, result.schedule, broken)
        parameters = json.loads(cell.parameters)
        again: Any = result.schedule
        if cell.solver in POLICIES:
            again = POLICIES.create(cell.solver, **parameters)
        done = replay(trace, again, seed=cell.seed).schedule
        found |= evaluate(trace.instance, done).as_dict()
    return found


def _plain(value: Any) -> Any:
    """Sum the levels of a lexicographic value; infinity and NaN stay floats."""
    return None if value is None else float(np.sum(value))


def run_sweep(
    cells: list[Cell],
    folder: Path,
    *,
    jobs: int = 1,
    retry_failed: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> SweepState:
    """Run the cells that are not finished yet and write the tables of all.

    Cells run in processes of their own, so that one that is killed is a row with an error. Every
    cell is kept in a file of its own as soon as it ends, whatever its place in the grid. Ctrl-C
    ends the cells under way, which are run anew the next time; the tables are written only when
    all cells are finished.

    Parameters
    ----------
    cells : list of Cell
        The grid.
    folder : Path
        Where ``cells/``, ``results.parquet`` and ``times.parquet`` go.
    jobs : int, default 1
        Processes.
    retry_failed : bool, default False
        Whether cells that ended with an error are run again.
    progress : callable, optional
        Called with what is done, how much of it, and out of how much.

    Raises
    ------
    FileFormatError
        If a cell that was kept is damaged.
    LemixError
        If another sweep writes to the folder.
    """
    jobs = whole("jobs", jobs, minimum=1)
    with opened(folder) as store, interruptible():
        known: dict[str, dict[str, Any]] = {}
        for cell in cells:
            found = read_cell(store, cell)
            if found is not None and not (retry_failed and found["row"]["error"]):
                known[cell.key] = found
        kept = len(known)
        waiting = list({cell.key: cell for cell in cells if cell.key not in known}.values())
        if waiting:
            # What is left of a run that is cut must not look like its result.
            for name in TABLES:
                (folder / name).unlink(missing_ok=True)
        calls = [(cell,) for cell in waiting]
        ended = answers(run_cell, calls, jobs)
        with suppress(KeyboardInterrupt), closing(ended), without_exceptions():
            for done, (number, answer) in enumerate(ended, 1):
                cell = waiting[number]
                found = _lost(cell, answer) if isinstance(answer, Lost) else answer
                known[cell.key] = write_cell(store, cell, found)
                if progress is not None:
                    progress("cells", done, len(waiting))
        over = [cell for cell in cells if cell.key in known]
        rows = _aligned([known[c.key]["row"] | {"problem": c.problem} for c in over])
        times = [
            {"problem": c.problem, "solver": c.solver, "seed": c.seed}
            | {"wall_s": known[c.key]["wall_s"]}
            for c in over
        ]
        if len(over) == len(cells):
            write_parquet(rows, folder / "results.parquet", versions())
            write_parquet(times, folder / "times.parquet", {})
        failed = sum(row["error"] is not None for row in rows)
        return SweepState(rows, times, len(known) - kept, kept, failed, len(cells) - len(over))


def _lost(cell: Cell, lost: Lost) -> dict[str, Any]:
    where = f"cell {cell.problem!r}, {cell.solver} {cell.parameters}, seed {cell.seed}"
    return {"row": _begun(cell) | {"error": f"{where}: {lost.how}"}, "wall_s": 0.0}


def _begun(cell: Cell) -> dict[str, Any]:
    return {
        "problem": cell.problem,
        "solver": cell.solver,
        "parameters": cell.parameters,
        "seed": cell.seed,
        "error": None,
    }


def _aligned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give all rows the same columns."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name) for name in names} for row in rows]
