"""`lemix bench`: solvers on literature benchmarks and on the own train+serve suite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli_options import CUT, Json, Seed, as_json_text, out_folder, say
from lemix_opt.checks import whole
from lemix_opt.files import check_file


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(bench)


def bench(
    suite: Annotated[
        str, typer.Argument(help="Suite by name, e.g. taillard-20x5, or a .json(.gz) file.")
    ],
    solver: Annotated[list[str] | None, typer.Option(help="Name; may be given again.")] = None,
    objective: Annotated[
        str, typer.Option(help="slo, inference or makespan; the suite's first one by default.")
    ] = "",
    seeds: Annotated[int | None, typer.Option(help="First so many instances per cell.")] = None,
    limit: Annotated[int | None, typer.Option(help="First so many instances.")] = None,
    time_limit: Annotated[
        float, typer.Option("--time-limit", "--time-limit-s", help="Wall seconds per instance.")
    ] = 60.0,
    deterministic_limit: Annotated[
        float | None, typer.Option(help="Solver's own limit, for repeatable tables.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Threads of a solver.")] = 1,
    jobs: Annotated[int, typer.Option(help="Processes; 0 for one per core.")] = 1,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables.")] = None,
    update: Annotated[
        Path | None, typer.Option(help="Table of best bounds to compare with and improve.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run solvers on a benchmark; exit code 1 when a run failed or a schedule broke a rule.

    Ctrl-C ends with what is done, and exit code 130.
    """
    import joblib

    from experiments.bench import BenchSettings, run_bench
    from experiments.bench_report import report_text, times_text, write_bench
    from experiments.progress import progress_bar

    settings = BenchSettings(
        tuple(solver or ["portfolio"]), objective, time_limit, deterministic_limit, workers, seed
    )
    jobs = whole("jobs", jobs, minimum=0) or joblib.cpu_count()
    out_folder(out)
    if update is not None:
        check_file(update)
    with progress_bar(quiet=as_json) as show:
        found = run_bench(
            suite, settings, seeds=seeds, limit=limit, jobs=jobs, update=update, progress=show
        )
    files = [] if out is None else write_bench(found, out, time_limit)
    if as_json:
        plain = {
            "head": found.head,
            "rows": found.rows,
            "summary": found.summary,
            "measured_on": found.measured_on,
            "times": found.times,
            "time_summary": found.time_summary,
            "better": found.better,
            "files": [str(path) for path in files],
        }
        say(as_json_text(plain))
    else:
        say(report_text(found))
        say(times_text(found, time_limit))
        if update is not None:
            say(f"{found.better} results improved {update}")
        if out is not None:
            say(f"{len(files)} files in {out}")
    if found.cut:
        raise typer.Exit(CUT)
    if found.failed:
        raise typer.Exit(1)
