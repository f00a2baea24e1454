"""Commands of predictors: `lemix fit`, `lemix predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.cli_options import Json, show


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(fit)
    app.command()(predict)


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
    """Fit a model to measurements, print its errors on held-out points, and save it.

    Profiles of operations (such as muxserve-prefill) fit one model to all of their models and GPU
    types; profiles of one --model compare the predictors of whole-model prefills.
    """
    from experiments.operation_profiles import PROFILES

    if profile in PROFILES:
        _fit_operations(profile, out, as_json)
        return
    if profile == "fms_fine_tuning_a100":
        _fit_memory(out, as_json)
        return
    from experiments.profiles import read_profile
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
    _report(head, rows, as_json)


def _fit_memory(out: Path | None, as_json: bool) -> None:
    from experiments.memory_errors import fit_profile, out_of_memory
    from experiments.memory_profiles import read_memory_profile
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
    _report(head, rows, as_json)


def _fit_operations(profile: str, out: Path | None, as_json: bool) -> None:
    from experiments.operation_profiles import read_operations
    from predictors.errors_by_split import held_out_errors, operation_splits
    from predictors.operation_model import OperationTimeModel
    from predictors.saving import save_model

    found = read_operations(profile)
    splits = operation_splits(found.X, found.groups, found.models, found.gpus)
    errors = held_out_errors(OperationTimeModel(), found.X, found.seconds, splits, coverage=0.9)
    head = {
        "profile": f"{found.name}, {len(set(found.groups))} groups of model, GPU type, GPUs",
        "measured": f"{len(found.seconds)} runs; {found.missing} missing; "
        f"{found.implausible} left out because a batch of fewer tokens took longer",
        "sha256": found.sha256,
    }
    if out is not None:
        save_model(OperationTimeModel().fit(found.X, found.seconds), out, found.sha256)
        head["saved"] = f"operation model in {out}"
    rows: list[dict[str, Any]] = [
        {
            "split": error.split,
            "fitted": error.fitted,
            "held_out": error.held_out,
            "repetitions": error.repetitions,
            "mape_pct": error.mape_pct,
            "covered_pct": error.covered_pct,
        }
        for error in errors
    ]
    _report(head, rows, as_json)


def _report(head: dict[str, Any], rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print what was fitted and its held-out errors, of which rows need not know all columns."""
    from experiments.tables import Column, text_table

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
        Column("covered_pct", "in 90 % interval [%]", 1),
    )
    shown = [column for column in columns if column.name in rows[0]]
    typer.echo("\n" + text_table(rows, shown))


def predict(
    saved: Annotated[Path, typer.Argument(help="Model file of 'lemix fit --out'.")],
    points: Annotated[
        Path | None, typer.Option(help="CSV with a column per option below, a row per point.")
    ] = None,
    kind: Annotated[str, typer.Option(help="prefill, decode, forward, ...")] = "prefill",
    model: Annotated[str, typer.Option(help="Model shape, such as llama-7b.")] = "",
    gpu: Annotated[str, typer.Option(help="GPU type, such as a100-80gb.")] = "",
    rows: Annotated[float, typer.Option(help="Rows of the batch.")] = 1,
    length: Annotated[float, typer.Option(help="Tokens per row.")] = 1,
    context: Annotated[float, typer.Option(help="Cached tokens per row.")] = 0,
    tensor: Annotated[float, typer.Option(help="Tensor-parallel GPUs.")] = 1,
    data: Annotated[float, typer.Option(help="Data-parallel replicas.")] = 1,
    pipeline: Annotated[float, typer.Option(help="Pipeline stages.")] = 1,
    micro_batches: Annotated[float, typer.Option(help="Micro-batches per iteration.")] = 1,
    sm_share: Annotated[float, typer.Option(help="Share of the SMs, 0 to 1.")] = 1,
    precision: Annotated[str, typer.Option(help="half, tensor_float or single.")] = "half",
    coverage: Annotated[float, typer.Option(help="Coverage of the interval.")] = 0.9,
    out: Annotated[Path | None, typer.Option(help="CSV to write instead of printing.")] = None,
    as_json: Json = False,
) -> None:
    """Predict seconds of operations, with interval and where each prediction comes from."""
    from experiments.predicting import predict_points, read_points, write_predictions
    from experiments.tables import Column, text_table
    from predictors.saving import load_model

    loaded = load_model(saved)
    single: dict[str, str | float] = {
        "kind": kind,
        "model": model,
        "gpu": gpu,
        "rows": rows,
        "length": length,
        "context": context,
        "tensor": tensor,
        "data": data,
        "pipeline": pipeline,
        "micro_batches": micro_batches,
        "sm_share": sm_share,
        "precision": precision,
    }
    asked = [single] if points is None else read_points(points, single)
    found = predict_points(loaded.model, asked, coverage, str(points or "options"))
    if out is not None:
        write_predictions(found, out)
        typer.echo(f"{len(found)} predictions in {out}")
        return
    if as_json:
        head = {"data_sha256": loaded.data_sha256, "coverage": coverage}
        typer.echo(json.dumps({"head": head, "predictions": found}, indent=2))
        return
    columns = (
        *(Column(name, name, 0) for name in ("kind", "model", "gpu", "rows", "length")),
        Column("seconds", "predicted [s]", 6),
        Column("low_s", "low [s]", 6),
        Column("high_s", "high [s]", 6),
        Column("provenance", "provenance"),
    )
    typer.echo(f"interval: {100 * coverage:g} %, fitted on data {loaded.data_sha256[:12]}\n")
    typer.echo(text_table(found, columns))
