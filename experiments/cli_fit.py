"""Commands that fit predictors: `lemix fit`, `lemix curve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli_options import Json, as_json_text, out_file, out_folder, say, show
from lemix_opt.checks import whole
from lemix_opt.errors import FieldError

if TYPE_CHECKING:
    from predictors.errors_by_split import SplitError


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(fit)
    app.command()(curve)


def fit(
    profile: Annotated[str, typer.Option(help="Measured profile.")],
    model: Annotated[str, typer.Option(help="Model, as the profile names it.")] = "",
    gpu: Annotated[str | None, typer.Option(help="GPU type.")] = None,
    tensor_parallel: Annotated[int, typer.Option(help="GPUs of one measurement.")] = 1,
    longest: Annotated[float, typer.Option(help="Hold lengths above out [tokens per row].")] = 128,
    most_tokens: Annotated[float, typer.Option(help="Hold batches above out [tokens].")] = 8192,
    predictor: Annotated[str, typer.Option(help="Model to save.")] = "analytic",
    out: Annotated[Path | None, typer.Option(help="Where to save it.")] = None,
    as_json: Json = False,
) -> None:
    """Fit a model to measurements, print its errors on held-out points, and save it.

    Profiles of operations (such as muxserve-prefill) fit one model to all of their models and GPU
    types; hop-within and hop-across fit transfers between two GPUs, fms_fine_tuning_a100 peak
    memory; profiles of one --model compare the predictors of whole-model prefills.
    """
    from experiments.operation_profiles import PROFILES

    out_file(out)
    if profile in PROFILES:
        _fit_operations(profile, out, as_json)
        return
    if profile == "fms_fine_tuning_a100":
        _fit_memory(out, as_json)
        return
    if profile.startswith("hop-"):
        _fit_hops(profile.removeprefix("hop-"), out, as_json)
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
    from experiments.memory_errors import failure_limit, fit_profile, out_of_memory
    from experiments.memory_profiles import read_memory_profile
    from predictors.memory_parts import PARTS
    from predictors.saving import save_model

    profile = read_memory_profile()
    fitted, errors = fit_profile(profile)
    failures = out_of_memory(profile)
    fitted.limit_bytes_ = failure_limit(profile, fitted.share_)
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
        "limit": f"{fitted.limit_bytes_ / 2**30:.1f} GiB of predicted peak, chosen on all runs, "
        "predicted without their model and framework",
    }
    if out is not None:
        save_model(fitted, out, profile.sha256)
        head["saved"] = f"memory model in {out}"
    _report(head, rows, as_json)


def _fit_hops(link: str, out: Path | None, as_json: bool) -> None:
    from experiments.hop_profiles import PIECES, hop_errors, read_hop_profile
    from predictors.hops import HopModel
    from predictors.saving import save_model

    found = read_hop_profile(link)
    head = {
        "profile": f"{found.source}: transfers between two A100, {link} machines",
        "measured": f"{len(found.seconds)} sizes of up to {found.sent_bytes.max():.0f} bytes",
        "sha256": found.sha256,
    }
    if out is not None:
        fitted = HopModel(PIECES[link]).fit(found.sent_bytes[:, None], found.seconds)
        save_model(fitted, out, found.sha256)
        head["saved"] = f"hop model in {out}"
    _report(head, _error_rows(hop_errors(found)), as_json)


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
    _report(head, _error_rows(errors), as_json)


def _error_rows(errors: Sequence[SplitError]) -> list[dict[str, Any]]:
    return [
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


def _report(head: dict[str, Any], rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print what was fitted and its held-out errors, of which rows need not know all columns."""
    from experiments.tables import Column, text_table

    if as_json:
        say(as_json_text({"head": head, "errors": rows}))
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
    say("\n" + text_table(rows, shown))


def curve(
    profile: Annotated[str, typer.Option(help="Measured profile of operations.")] = "sailor-layer",
    points: Annotated[
        str, typer.Option(help="How many points of the unseen GPU type, with commas.")
    ] = "0,1,5,20",
    draws: Annotated[int, typer.Option(help="Random draws of the points.")] = 3,
    trees: Annotated[int, typer.Option(help="Trees of the correction; 'lemix fit' has 100.")] = 30,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the table and, if it can be drawn, the chart.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how much profiling is enough: errors on an unseen GPU type by measured points of it.

    Every GPU type is left out in turn. A point is one shape (model, rows, length, GPUs) with the
    times of all its operations, such as forward and backward.
    """
    from experiments.operation_profiles import read_operations
    from experiments.progress import progress_bar
    from experiments.transfer_report import curve_rows, curve_text, write_curve
    from predictors.operation_model import OperationTimeModel
    from predictors.operations import KINDS, column
    from predictors.transfer import transfer_curve

    out_folder(out)
    counts = [_count(part) for part in points.split(",")]
    found = read_operations(profile)
    # Updates are bound by memory alone and say nothing about the rest.
    kept = column(found.X, "kind") != KINDS.index("update")
    X, seconds, gpus = found.X[kept], found.seconds[kept], found.gpus[kept]
    if len(set(gpus)) < 2:
        raise FieldError(
            f"{len(set(gpus))} GPU type",
            where=profile,
            expected="a profile of two GPU types or more, such as sailor-layer",
        )
    model = OperationTimeModel(trees=whole("trees", trees, minimum=0))
    with progress_bar(quiet=as_json) as show_progress:
        errors = transfer_curve(
            model,
            X,
            seconds,
            gpus,
            counts,
            whole("draws", draws, minimum=1),
            lambda done, of: show_progress("GPU types left out", done, of),
        )
    head = {
        "profile": f"{found.name}, {len(set(gpus))} GPU types, each left out in turn",
        "measured": f"{len(seconds)} times of {found.source}",
        "sha256": found.sha256,
        "model": f"operations, {trees} trees",
        "point": "one shape (model, rows, length, GPUs) with the times of all its operations",
        "error": "mean absolute percentage error on the rest of the type, mean, least and most "
        f"over up to {draws} draws",
    }
    rows = curve_rows(errors)
    files = [] if out is None else write_curve(rows, head, out)
    if as_json:
        said = {"head": head, "errors": rows, "files": [str(path) for path in files]}
        say(as_json_text(said))
        return
    show(head, as_json=False)
    say("\n" + curve_text(rows))
    for path in files:
        say(str(path))


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise FieldError(repr(text), where="--points", expected="whole numbers, commas") from None
    return whole("points", number, minimum=0)
