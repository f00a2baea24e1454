"""The `lemix` command: arguments in, tables or JSON out, exit codes 0, 1, 2 and 130."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.cli_options import CUT, Json, Seed, as_json_text, out_file, say, show
from lemix_opt.errors import InfeasibleError, LemixError, printable
from lemix_opt.interrupt import interrupted, interruptible

app = typer.Typer(
    name="lemix",
    help="Schedule LLM inference and training together on GPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
InstancePath = Annotated[Path, typer.Argument(help="Instance file, JSON or tables.")]
Out = Annotated[Path | None, typer.Option(help="Where to write the schedule.")]


@app.command()
def versions(as_json: Json = False) -> None:
    """Versions of everything results depend on, and where the rooms come from."""
    from lemix_opt.result import versions as found
    from lemix_opt.rooms import HOME, ROOMS, shadows

    rooms = {f"room {room}": str(HOME / room) for room in ROOMS}
    hidden = {f"hidden {s.room}": f"{s.theirs} hides {s.ours}" for s in shadows()}
    show({**found(), **rooms, **hidden}, as_json)


@app.command()
def solvers(as_json: Json = False) -> None:
    """Solvers and policies with the parameters they take."""
    from solvers.registry import POLICIES, SOLVERS

    show(
        {
            f"{registry.kind} {name}": ", ".join(registry.parameters(name)) or "no parameters"
            for registry in (SOLVERS, POLICIES)
            for name in registry
        },
        as_json,
    )


@app.command()
def solve(
    path: InstancePath,
    solver: Annotated[str, typer.Option(help="Name out of 'lemix solvers'.")] = "portfolio",
    makespan: Annotated[float, typer.Option(help="Weight of the makespan.")] = 1.0,
    inference_response: Annotated[float, typer.Option(help="Weight of responses.")] = 0.0,
    training_response: Annotated[float, typer.Option(help="Weight of responses.")] = 0.0,
    late_penalty: Annotated[float, typer.Option(help="Seconds per late request.")] = 0.0,
    time_limit: Annotated[float, typer.Option(help="Wall seconds.")] = 60.0,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Solve one instance; exit code 1 unless the result is a schedule that keeps every rule."""
    import instances
    from instances.schedule_files import write_schedule
    from lemix_opt.objective import Objective
    from solvers import solve as run

    out_file(out, path)
    objective = Objective(
        makespan=makespan,
        inference_response=inference_response,
        training_response=training_response,
        late_penalty_s=late_penalty,
    )
    result = run(
        instances.read(path), solver, objective=objective, time_limit_s=time_limit, seed=seed
    )
    if out is not None and result.schedule is not None:
        write_schedule(result.schedule, out)
    if as_json:
        say(as_json_text(result.to_dict()))
    else:
        say(str(result))
    if result.interrupted:
        raise typer.Exit(CUT)
    if result.status not in ("optimal", "feasible"):
        raise typer.Exit(1)


@app.command()
def simulate(
    path: InstancePath,
    policy: Annotated[str, typer.Option(help="Name out of 'lemix solvers'.")] = "jsq",
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Run a policy on an instance and print its score; exit code 1 on violations."""
    import instances
    from experiments.notes import notes_of
    from instances.schedule_files import write_schedule
    from lemix_opt.engine import simulate as run
    from lemix_opt.evaluation import evaluate
    from lemix_opt.validation import validate
    from solvers.registry import POLICIES

    out_file(out, path)
    instance = instances.read(path)
    schedule = run(instance, POLICIES.create(policy), seed=seed)
    if out is not None:
        write_schedule(schedule, out)
    violations = validate(instance, schedule)
    score: dict[str, Any] = dict(evaluate(instance, schedule).as_dict())
    score["violations"] = [str(v.message) for v in violations]
    score |= notes_of(instance, schedule, violations)
    show(score, as_json)
    if violations:
        raise typer.Exit(1)


_PARTS = (
    "bench",
    "compare",
    "data",
    "explain",
    "fit",
    "predict",
    "replay",
    "risk",
    "serving",
    "study",
    "sweep",
    "trace",
)
"""Modules `experiments.cli_*`, each with a few commands."""
for part in _PARTS:
    import_module(f"experiments.cli_{part}").register(app)


def main() -> None:
    """Run the command; errors of the toolkit become one line and an exit code."""
    try:
        with interruptible():
            try:
                app()
            finally:
                if interrupted():
                    sys.stderr.write("lemix: interrupted\n")
    except InfeasibleError as error:
        sys.stderr.write(f"lemix: {printable(str(error))}\n")
        sys.exit(1)
    except MemoryError:
        sys.stderr.write("lemix: memory is full; ask for less, or cut the input\n")
        sys.exit(2)
    except (LemixError, OSError) as error:
        sys.stderr.write(f"lemix: {printable(str(error))}\n")
        sys.exit(2)
