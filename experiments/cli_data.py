"""Commands on data: `lemix datasets`, `lemix fit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.cli_options import Json, show
from lemix_opt.errors import DatasetError


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(datasets)
    app.command()(fit)


def datasets(
    name: Annotated[
        str, typer.Argument(help="Dataset to fetch and check; all when left out.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List datasets with licence, size, hash and place, or fetch one and check it."""
    from experiments.tables import Column, text_table
    from instances.datasets import dataset, fetch, locate
    from instances.datasets import datasets as known

    if name:
        found = fetch(dataset(name))
        said = {"name": name, "path": str(found.path), "found": found.where, "sha256": "checked"}
        typer.echo(json.dumps(said, indent=2) if as_json else f"{name}: {found.path}, hash checked")
        return
    rows: list[dict[str, Any]] = []
    for key, entry in sorted(known().items()):
        try:
            place = locate(entry)
            where = "not here" if place is None else f"{place.where}: {place.path}"
        except DatasetError as error:
            where = f"refused: {error}"
        get = entry.address or f"build from {entry.derived_from}: {entry.recipe}"
        rows.append(
            {
                "name": key,
                "licence": entry.licence,
                "bytes": entry.bytes,
                "sha256": entry.sha256,
                "reader": entry.reader or None,
                "where": where,
                "get": get,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    short = [row | {"sha256": f"{row['sha256'][:12]}…"} for row in rows]
    columns = ("name", "licence", "bytes", "sha256", "reader", "where", "get")
    typer.echo(text_table(short, [Column(c, c) for c in columns]))


def fit(
    profile: Annotated[str, typer.Option(help="Measured profile.")],
    model: Annotated[str, typer.Option(help="Model, as the profile names it.")] = "",
    gpu: Annotated[str | None, typer.Option(help="GPU type.")] = None,
    tensor_parallel: Annotated[int, typer.Option(help="GPUs of one measurement.")] = 1,
    longest: Annotated[float, typer.Option(help="Hold lengths above out.")] = 128,
    most_tokens: Annotated[float, typer.Option(help="Hold tokens above out.")] = 8192,
    predictor: Annotated[str, typer.Option(help="Model to save.")] = "analytic",
    out: Annotated[Path | None, typer.Option(help="Where to save it.")] = None,
    as_json: Json = False,
) -> None:
    """Fit every time model, or the memory model, and print errors on held-out points."""
    if profile == "fms_fine_tuning_a100":
        _fit_memory(out, as_json)
        return
    from experiments.profiles import read_profile
    from experiments.tables import Column, text_table
    from predictors.errors_by_split import split_errors
    from predictors.registry import PREDICTORS
    from predictors.saving import save_model

    found = read_profile(profile, model, gpu, tensor_parallel)
    points, seconds = found.points
    rows = [
        {
            "predictor": name,
            "split": error.split,
            "fitted": error.fitted,
            "held_out": error.held_out,
            "repetitions": error.repetitions,
            "mape_pct": error.mape_pct,
        }
        for name in PREDICTORS
        for error in split_errors(PREDICTORS.create(name), points, seconds, longest, most_tokens)
    ]
    head = {
        "profile": f"{found.name}, {found.model}, {found.gpus} x {found.gpu}",
        "measured": f"{len(seconds)} runs; {found.measured.missing} missing; "
        f"{found.measured.implausible} left out because a batch of fewer tokens took longer",
        "sha256": found.sha256,
    }
    if out is not None:
        fitted = PREDICTORS.create(predictor).fit(points, seconds)
        save_model(fitted, out, found.sha256)
        head["saved"] = f"{predictor} model in {out}"
    if as_json:
        typer.echo(json.dumps({"head": head, "errors": rows}, indent=2))
        return
    show(head, as_json=False)
    columns = (
        Column("predictor", "predictor"),
        Column("split", "held out"),
        Column("fitted", "rows fitted"),
        Column("held_out", "rows held out"),
        Column("repetitions", "splits"),
        Column("mape_pct", "mean abs. error [%]", 1),
    )
    typer.echo("\n" + text_table(rows, columns))


def _fit_memory(out: Path | None, as_json: bool) -> None:
    from experiments.memory_errors import fit_profile, out_of_memory
    from experiments.memory_profiles import read_memory_profile
    from experiments.tables import Column, text_table
    from predictors.memory_parts import PARTS
    from predictors.saving import save_model

    profile = read_memory_profile()
    fitted, errors = fit_profile(profile)
    failures = out_of_memory(profile)
    rows = [
        {"split": e.split, "fitted": e.fitted, "held_out": e.held_out, "mape_pct": e.mape_pct}
        for e in errors
    ]
    factors = zip(PARTS, fitted.factor_.tolist(), strict=True)
    head = {
        "profile": f"{profile.source}: peak of torch's allocator per GPU",
        "measured": f"{int(profile.measured.sum())} runs with a peak; {int(profile.failed.sum())} "
        f"without a run time, presumably out of memory; {profile.left_out} rows left out",
        "sha256": profile.sha256,
        "factors": ", ".join(f"{name} {value:.2f}" for name, value in factors),
        "boosting": f"{fitted.share_:g} of the correction, chosen on models left out",
        "out of memory": f"{failures.recall} of the runs foreseen, {failures.false_alarms} of the "
        "others said to fail; five folds of model and framework, pooled",
    }
    if out is not None:
        save_model(fitted, out, profile.sha256)
        head["saved"] = f"memory model in {out}"
    if as_json:
        typer.echo(json.dumps({"head": head, "errors": rows}, indent=2))
        return
    show(head, as_json=False)
    columns = (
        Column("split", "model, held out"),
        Column("fitted", "rows fitted"),
        Column("held_out", "rows held out"),
        Column("mape_pct", "mean abs. error [%]", 1),
    )
    typer.echo("\n" + text_table(rows, columns))
