"""`lemix sweep`: a grid of problems, solvers, parameters and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli_options import CUT, Json, as_json_text, out_folder, say


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(sweep)


def sweep(
    config: Annotated[Path, typer.Argument(help="TOML file with the grid.")],
    out: Annotated[Path, typer.Option(help="Folder of the results.")],
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
    retry_failed: Annotated[bool, typer.Option(help="Run cells with an error again.")] = False,
    as_json: Json = False,
) -> None:
    """Run every cell of a grid that is not finished yet; exit code 1 when cells failed.

    Ctrl-C ends with the cells that are finished, and exit code 130.
    """
    from experiments.progress import progress_bar
    from experiments.sweep import run_sweep
    from experiments.sweep_config import read_grid
    from experiments.sweep_store import TABLES
    from experiments.tables import Column, text_table

    out_folder(out, TABLES, config)
    cells = read_grid(config)
    with progress_bar(quiet=as_json) as show:
        state = run_sweep(cells, out, jobs=jobs, retry_failed=retry_failed, progress=show)
    if as_json:
        say(as_json_text({"rows": state.rows, "times": state.times, "left": state.left}))
    else:
        columns = (
            Column("problem", "problem"),
            Column("solver", "solver"),
            Column("parameters", "parameters"),
            Column("seed", "seed"),
            Column("status", "status"),
            Column("objective_s", "objective, predicted costs [s]"),
            Column("lower_bound_s", "bound [s]"),
            Column("slo_attainment_5x", "SLO 5x, actual [%]", 1, True),
            Column("error", "error"),
        )
        say(text_table(state.rows, columns))
        say(
            f"{len(cells)} cells: {state.ran} run now, {state.kept} from before, "
            f"{state.failed} with an error"
            + (f"; interrupted, {state.left} left" if state.left else f"; tables in {out}")
        )
    if state.left:
        say("interrupted: run it again to go on with the cells that are left", err=True)
        raise typer.Exit(CUT)
    if state.failed:
        raise typer.Exit(1)
