"""`lemix risk`: how much speed a lower risk of running out of memory costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli_options import Json, as_json_text, out_folder, say
from lemix_opt.errors import FieldError


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(risk)


def risk(
    out: Annotated[Path, typer.Option(help="Folder of the tables.")],
    risks: Annotated[str, typer.Option(help="Probabilities with commas.")] = "",
    policies: Annotated[str, typer.Option(help="Policies with commas.")] = "",
    exact: Annotated[str, typer.Option(help="Exact solver for windows, or 'none'.")] = "none",
    time_limit: Annotated[float, typer.Option(help="Wall seconds per window.")] = 10.0,
    room: Annotated[float, typer.Option(help="Free memory of a GPU in mean training tasks.")] = 6.0,
    tasks: Annotated[int, typer.Option(help="Tasks of a run.")] = 300,
    training_share: Annotated[float, typer.Option(help="Training / all tasks.")] = 0.5,
    load: Annotated[float, typer.Option(help="Load to compress the gaps to.")] = 0.9,
    seeds: Annotated[int, typer.Option(help="Paired seeds.")] = 5,
    as_json: Json = False,
) -> None:
    """Plan with quantiles of memory and execute on drawn bytes: speed against lost tasks."""
    from dataclasses import replace

    from experiments.progress import progress_bar
    from experiments.risk import POLICIES, RISKS, STUDY, risk_text, run_risks, write_risks
    from experiments.windows import ExactSettings

    study = replace(STUDY, tasks=tasks, training_share=training_share, load=load, room=room)
    settings = None if exact == "none" else ExactSettings(exact, time_limit, None)
    out_folder(out)
    with progress_bar(quiet=as_json) as show:
        found = run_risks(
            study,
            _numbers(risks) if risks else RISKS,
            tuple(policies.split(",")) if policies else POLICIES,
            settings,
            seeds=seeds,
            progress=show,
        )
        files = write_risks(found, out)
    if as_json:
        plain = {"head": found.head, "summary": found.summary, "files": [str(f) for f in files]}
        say(as_json_text(plain))
        return
    say(risk_text(found))
    say(f"{len(files)} files in {out}")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise FieldError(text, where="risks", expected="numbers with commas") from None
