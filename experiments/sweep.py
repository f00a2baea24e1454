"""Sweeps: every cell of a grid once, in local processes, kept one by one as it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from experiments.notes import notes_of
from experiments.study import Study, build, slo_objective
from experiments.sweep_config import Cell
from experiments.tables import write_parquet
from lemix_opt import evaluate, replay, validate
from lemix_opt.checks import whole
from lemix_opt.errors import FileFormatError, LemixError
from lemix_opt.files import write_atomically
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
    ran, kept, failed : int
        Cells run now, taken over from before, and with an error.
    """

    rows: list[dict[str, Any]]
    times: list[dict[str, Any]]
    ran: int
    kept: int
    failed: int


def run_cell(cell: Cell) -> dict[str, Any]:
    """Run one cell; an error of any kind becomes part of its row."""
    begin = time.perf_counter()
    row: dict[str, Any] = {
        "problem": cell.problem,
        "solver": cell.solver,
        "parameters": cell.parameters,
        "seed": cell.seed,
        "error": None,
    }
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

    Every cell is kept in a file of its own as soon as it ends, so that an interrupted sweep goes
    on where it stopped.

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
    """
    store = folder / "cells"
    store.mkdir(parents=True, exist_ok=True)
    jobs = whole("jobs", jobs, minimum=1)
    known: dict[str, dict[str, Any]] = {}
    for cell in cells:
        found = _read(store / f"{cell.key}.json")
        if found is not None and not (retry_failed and found["row"]["error"]):
            known[cell.key] = found
    kept = len(known)
    waiting = list({cell.key: cell for cell in cells if cell.key not in known}.values())
    for done, (cell, found) in enumerate(zip(waiting, _spread(waiting, jobs), strict=True), 1):
        known[cell.key] = _finite(found)
        write_atomically(store / f"{cell.key}.json", msgspec.json.encode(known[cell.key]))
        if progress is not None:
            progress("cells", done, len(waiting))
    rows = _aligned([known[c.key]["row"] | {"problem": c.problem} for c in cells])
    times = [
        {"problem": c.problem, "solver": c.solver, "seed": c.seed, "wall_s": known[c.key]["wall_s"]}
        for c in cells
    ]
    write_parquet(rows, folder / "results.parquet", versions())
    write_parquet(times, folder / "times.parquet", {})
    failed = sum(row["error"] is not None for row in rows)
    return SweepState(rows, times, len(waiting), kept, failed)


def _spread(cells: list[Cell], jobs: int) -> Any:
    if jobs == 1 or len(cells) < 2:
        return map(run_cell, cells)
    from joblib import Parallel, delayed

    return Parallel(n_jobs=jobs, return_as="generator")(delayed(run_cell)(cell) for cell in cells)


def _finite(found: dict[str, Any]) -> dict[str, Any]:
    """Replace infinity and NaN, which JSON lacks, by words and None."""
    row = {
        name: None
        if isinstance(v, float) and np.isnan(v)
        else "inf"
        if isinstance(v, float) and np.isinf(v)
        else v
        for name, v in found["row"].items()
    }
    return found | {"row": row}


def _aligned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give all rows the same columns, and infinity back its value."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [
        {name: float("inf") if row.get(name) == "inf" else row.get(name) for name in names}
        for row in rows
    ]


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = msgspec.json.decode(path.read_bytes())
        if not {"row", "wall_s"} <= set(found):
            raise msgspec.DecodeError("no row")
    except (msgspec.DecodeError, TypeError) as error:
        raise FileFormatError(
            f"damaged ({error})", where=str(path), hint="Remove the file to run its cell again"
        ) from None
    return dict(found)
