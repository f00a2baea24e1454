"""Commands that explain a trace: `lemix explain`, `lemix regret`."""

from __future__ import annotations

from dataclasses import asdict, replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli_options import CUT, Json, Seed, as_json_text, out_file, say
from lemix_opt.errors import FieldError
from lemix_opt.policy import Policy
from lemix_opt.trace import Trace

if TYPE_CHECKING:
    from experiments.regret import Window
    from predictors import TraceCostModel

TracePath = Annotated[Path, typer.Argument(help="Trace file.")]
FittedOn = Annotated[
    Path | None,
    typer.Option(help="Trace to fit predicted costs to; those of the trace itself otherwise."),
]
Model = Annotated[
    str | None, typer.Option(help="Time model that is fitted to it; 'analytic' otherwise.")
]
Policies = Annotated[list[str], typer.Option("--policy", help="Name; may be given again.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(explain)
    app.command()(regret)


def explain(
    trace: TracePath,
    fitted_on: FittedOn = None,
    model: Model = None,
    policy: Policies = [],  # noqa: B006
    draws: Annotated[
        int, typer.Option(min=0, help="Runs on drawn times that say what an error means.")
    ] = 200,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Split the error of a replay by its causes, and say what policies would have made of it."""
    from experiments.attribution import METRICS, attribute

    run, learned = _with_predictions(trace, fitted_on, model)
    predicted = _said(learned)
    drawn = learned.draws(run.instance, draws, seed) if learned and draws else ()
    found = attribute(run, _created(policy), seed, drawn)
    if as_json:
        say(as_json_text({"predicted_by": predicted, **asdict(found)}))
        return
    say(f"trace            {found.truth}: {found.provenance}")
    say(f"predicted costs  {predicted}")
    head = "".join(f"{name:>26s}" for name in METRICS)
    say(f"\n{'taken from the model':22s}{head}   (change by this step)")
    for step in found.steps:
        cells = "".join(
            f"{step.value[name]:>15.4f} {step.change[name]:>+10.4f}" for name in METRICS
        )
        say(f"{step.name:22s}{cells}")
    for name in METRICS:
        error = found.error(name)
        said = "unknown, no such tasks" if isnan(error) else f"{100 * error:+.2f} %"
        say(f"error of {name}: {said}")
    if found.expected:
        say(
            f"\nthe same decisions on times drawn as they scatter in the trace fitted on "
            f"({found.expected[0].draws} runs, synthetic)"
        )
    for metric in found.expected:
        held = "holds" if metric.holds_recorded else "does not hold"
        say(
            f"{metric.metric:22s}mean {metric.mean_s:.4f} s, 90 % of runs {metric.low_s:.4f} to "
            f"{metric.high_s:.4f} s: {held} the recorded one"
        )
    if found.policies:
        say(f"\n{'policy, recorded costs':22s}{head}   (against the recorded placement)")
    for other in found.policies:
        gap = other.against_recorded_placement
        cells = "".join(f"{other.value[name]:>15.4f} {gap[name]:>+10.4f}" for name in METRICS)
        say(f"{other.policy:22s}{cells}")


def regret(
    trace: TracePath,
    fitted_on: FittedOn = None,
    model: Model = None,
    policy: Policies = ["lemix"],  # noqa: B006
    window: Annotated[int, typer.Option(min=1, help="Most tasks of a window.")] = 10,
    makespan: Annotated[float, typer.Option(help="Weight of the makespan.")] = 0.0,
    inference_response: Annotated[float, typer.Option(help="Weight of responses.")] = 4.0,
    training_response: Annotated[float, typer.Option(help="Weight of responses.")] = 1.0,
    late_penalty: Annotated[float, typer.Option(help="Seconds per late request.")] = 0.0,
    budget: Annotated[
        float, typer.Option(help="Wall seconds of the solvers on all windows together.")
    ] = 60.0,
    deterministic_limit: Annotated[
        float | None,
        typer.Option(
            help="Limit of each solver on each window in its own time instead of the budget, for "
            "repeatable tables."
        ),
    ] = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="JSON file to write, anew after every window.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Split policies' distance from the optimum: predictions, unknown future, own decisions.

    Where the optimum of a window is not proven, regrets against it are given as what they are at
    least (against the best schedule found) and at most (against the proven lower bound). Ctrl-C
    ends with the windows that are done, and exit code 130.
    """
    from experiments.progress import progress_bar
    from experiments.regret import regrets
    from experiments.regret_report import regret_text, regret_values
    from experiments.windows import cut
    from lemix_opt.files import write_atomically
    from lemix_opt.objective import Objective

    out_file(out, trace, fitted_on)
    objective = Objective(
        makespan=makespan,
        inference_response=inference_response,
        training_response=training_response,
        late_penalty_s=late_penalty,
    )
    run, learned = _with_predictions(trace, fitted_on, model)
    parts, chosen = cut(run, window), _created(policy)
    if not parts:
        raise FieldError("no tasks", where=str(trace), expected="at least one")
    head = {
        "trace": f"{run.truth}: {run.provenance}",
        "predicted costs": _said(learned),
        "windows": f"{len(parts)} of at most {window} tasks, each from an empty cluster",
    }
    limit = f"at most {budget:g} s" if deterministic_limit is None else "a deterministic limit each"
    say(f"{len(parts)} windows of at most {window} tasks, {limit}", err=True)
    done: list[Window] = []

    def keep() -> dict[str, Any]:
        said = regret_values(head, done, len(parts))
        if out is not None:
            write_atomically(out, (as_json_text(said) + "\n").encode())
        return said

    keep()
    found = regrets(
        parts,
        chosen,
        objective,
        budget_s=budget,
        deterministic_limit=deterministic_limit,
        seed=seed,
    )
    try:
        with progress_bar(quiet=as_json) as progress:
            for one in found:
                done.append(one)
                progress("windows", len(done), len(parts))
                keep()
    except KeyboardInterrupt:
        say(f"interrupted: {len(done)} of {len(parts)} windows are done", err=True)
    if as_json:
        say(as_json_text(keep()))
    elif done:
        say(regret_text(head, done, len(parts)))
    if len(done) < len(parts):
        raise typer.Exit(CUT)


def _created(names: list[str]) -> list[tuple[str, Policy]]:
    from solvers.registry import POLICIES

    return [(name, POLICIES.create(name)) for name in names]


def _with_predictions(
    path: Path, fitted_on: Path | None, model: str | None
) -> tuple[Trace, TraceCostModel | None]:
    """Return the trace with predicted costs, and who predicts them where others than itself."""
    from instances.trace_files import read_trace
    from predictors import TraceCostModel

    run = read_trace(path)
    if fitted_on is None:
        if model is not None:
            raise FieldError(
                repr(model), where="--model", expected="--fitted-on too, a trace to fit it to"
            )
        return run, None
    if fitted_on.resolve() == path.resolve():
        raise FieldError(
            str(fitted_on),
            where="--fitted-on",
            expected="another recording: a model that has seen the answers predicts nothing",
        )
    learned = TraceCostModel(read_trace(fitted_on), model or "analytic")
    return replace(run, instance=run.instance.with_costs(learned.costs(run.instance))), learned


def _said(learned: TraceCostModel | None) -> str:
    return "those of the trace" if learned is None else str(learned)
