"""Commands that explain a trace: `lemix explain`, `lemix regret`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli_options import Json, Seed, as_json_text
from lemix_opt.errors import FieldError
from lemix_opt.policy import Policy
from lemix_opt.trace import Trace

if TYPE_CHECKING:
    from predictors import TraceCostModel

TracePath = Annotated[Path, typer.Argument(help="Trace file.")]
FittedOn = Annotated[
    Path | None,
    typer.Option(help="Trace to fit predicted costs to; those of the trace itself otherwise."),
]
Model = Annotated[str, typer.Option(help="Time model that is fitted.")]
Policies = Annotated[list[str], typer.Option("--policy", help="Name; may be given again.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(explain)
    app.command()(regret)


def explain(
    trace: TracePath,
    fitted_on: FittedOn = None,
    model: Model = "analytic",
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
        typer.echo(as_json_text({"predicted_by": predicted, **asdict(found)}))
        return
    typer.echo(f"trace            {found.truth}: {found.provenance}")
    typer.echo(f"predicted costs  {predicted}")
    head = "".join(f"{name:>26s}" for name in METRICS)
    typer.echo(f"\n{'taken from the model':22s}{head}   (change by this step)")
    for step in found.steps:
        cells = "".join(
            f"{step.value[name]:>15.4f} {step.change[name]:>+10.4f}" for name in METRICS
        )
        typer.echo(f"{step.name:22s}{cells}")
    for name in METRICS:
        typer.echo(f"error of {name}: {100 * found.error(name):+.2f} %")
    if found.expected:
        typer.echo(
            f"\nthe same decisions on times drawn as they scatter in the trace fitted on "
            f"({found.expected[0].draws} runs, synthetic)"
        )
    for metric in found.expected:
        held = "holds" if metric.holds_recorded else "does not hold"
        typer.echo(
            f"{metric.metric:22s}mean {metric.mean_s:.4f} s, 90 % of runs {metric.low_s:.4f} to "
            f"{metric.high_s:.4f} s: {held} the recorded one"
        )
    if found.policies:
        typer.echo(f"\n{'policy, recorded costs':22s}{head}   (against the recorded placement)")
    for other in found.policies:
        gap = other.against_recorded_placement
        cells = "".join(f"{other.value[name]:>15.4f} {gap[name]:>+10.4f}" for name in METRICS)
        typer.echo(f"{other.policy:22s}{cells}")


def regret(
    trace: TracePath,
    fitted_on: FittedOn = None,
    model: Model = "analytic",
    policy: Policies = ["lemix"],  # noqa: B006
    window: Annotated[int, typer.Option(help="Most tasks of a window.")] = 10,
    makespan: Annotated[float, typer.Option(help="Weight of the makespan.")] = 0.0,
    inference_response: Annotated[float, typer.Option(help="Weight of responses.")] = 4.0,
    training_response: Annotated[float, typer.Option(help="Weight of responses.")] = 1.0,
    late_penalty: Annotated[float, typer.Option(help="Seconds per late request.")] = 0.0,
    time_limit: Annotated[float, typer.Option(help="Wall seconds per window and solver.")] = 60.0,
    deterministic_limit: Annotated[
        float | None, typer.Option(help="Solver's own limit, for repeatable tables.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Split policies' distance from the optimum: predictions, unknown future, own decisions."""
    from experiments.regret import clairvoyant, total
    from experiments.regret import regret as of
    from experiments.windows import cut
    from lemix_opt.objective import Objective

    objective = Objective(
        makespan=makespan,
        inference_response=inference_response,
        training_response=training_response,
        late_penalty_s=late_penalty,
    )
    run, learned = _with_predictions(trace, fitted_on, model)
    predicted = _said(learned)
    parts = cut(run, window)
    optima = [
        clairvoyant(
            part,
            objective,
            time_limit_s=time_limit,
            deterministic_limit=deterministic_limit,
            seed=seed,
        )
        for part in parts
    ]
    chosen = _created(policy)
    rows = total([of(p, chosen, objective, o, seed) for p, o in zip(parts, optima, strict=True)])
    proven = sum(o.proven for o in optima)
    said: dict[str, Any] = {
        "trace": f"{run.truth}: {run.provenance}",
        "predicted costs": predicted,
        "windows": f"{len(parts)} of at most {window} tasks, each from an empty cluster",
        "proven optima": f"{proven} of {len(parts)}",
    }
    if as_json:
        typer.echo(as_json_text({**said, "regret": [asdict(row) for row in rows]}))
        return
    for name, text in said.items():
        typer.echo(f"{name:16s} {text}")
    typer.echo(
        f"\n{'policy':20s}{'J predicted':>13s}{'J true costs':>14s}{'prediction':>12s}"
        f"{'decision':>24s}{'of which online':>24s}   (s of the objective, actual costs)"
    )
    for row in rows:
        typer.echo(
            f"{row.policy:20s}{row.predicted_s:>13.4f}{row.informed_s:>14.4f}"
            f"{row.prediction_s:>+12.4f}{_interval(row.decision_s):>24s}"
            f"{_interval(row.online_s):>24s}"
        )


def _interval(of: tuple[float, float]) -> str:
    low, high = of
    return f"{low:+.4f}" if high - low <= 1e-9 else f"{low:+.4f} to {high:+.4f}"


def _created(names: list[str]) -> list[tuple[str, Policy]]:
    from solvers.registry import POLICIES

    return [(name, POLICIES.create(name)) for name in names]


def _with_predictions(
    path: Path, fitted_on: Path | None, model: str
) -> tuple[Trace, TraceCostModel | None]:
    """Return the trace with predicted costs, and who predicts them where others than itself."""
    from instances.trace_files import read_trace
    from predictors import TraceCostModel

    run = read_trace(path)
    if fitted_on is None:
        return run, None
    if fitted_on.resolve() == path.resolve():
        raise FieldError(
            str(fitted_on),
            where="--fitted-on",
            expected="another recording: a model that has seen the answers predicts nothing",
        )
    learned = TraceCostModel(read_trace(fitted_on), model)
    return replace(run, instance=run.instance.with_costs(learned.costs(run.instance))), learned


def _said(learned: TraceCostModel | None) -> str:
    return "those of the trace" if learned is None else str(learned)
