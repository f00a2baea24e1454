"""`lemix study`: the studies of LeMix, each with one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli_options import CUT, Json, as_json_text, out_folder, say


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(study)


def study(
    name: Annotated[str, typer.Argument(help="readings, ablations or sensitivity.")],
    out: Annotated[Path, typer.Option(help="Folder of the tables.")],
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
    seeds: Annotated[int, typer.Option(help="Paired seeds.")] = 10,
    as_json: Json = False,
) -> None:
    """Compare readings, ablations or weights of LeMix over the paper's grid, on synthetic costs."""
    from experiments.lemix_grids import grids
    from experiments.lemix_study import bands, run_study, study_text, write_study
    from experiments.progress import progress_bar

    out_folder(out)
    chosen = grids(name)
    with progress_bar(quiet=as_json) as show:
        tables = run_study(chosen, seeds=seeds, jobs=jobs, progress=show)
        files = write_study(tables, out)
    if as_json:
        said = {"cut": tables.cut, "bands": bands(tables.cells), "files": [str(f) for f in files]}
        say(as_json_text(said))
    else:
        say(study_text(tables).split("\nAll cells\n")[0])
        say(f"{len(files)} files in {out}")
    if tables.cut:
        raise typer.Exit(CUT)
