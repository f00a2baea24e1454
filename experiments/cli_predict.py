"""`lemix predict` and `lemix suggest`: a saved model is asked about points, or which to measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.cli_options import Json, as_json_text, out_file, say
from lemix_opt.errors import check_keywords

_Number = float | None
_Text = str | None
_Flag = bool | None
_OF_TIME, _OF_MEMORY, _OF_HOPS = (
    "Time of operations",
    "Peak memory of training runs",
    "Hops between two GPUs",
)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(predict)
    app.command()(suggest)


def _time(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=_OF_TIME)


def _memory(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=_OF_MEMORY)


def predict(
    saved: Annotated[Path, typer.Argument(help="Model file of 'lemix fit --out'.")],
    points: Annotated[
        Path | None, typer.Option(help="CSV with a column per option below, a row per point.")
    ] = None,
    model: Annotated[_Text, typer.Option(help="Model shape, such as llama-7b.")] = None,
    rows: Annotated[_Number, typer.Option(help="Rows of the batch (on one GPU); 1.")] = None,
    length: Annotated[_Number, typer.Option(help="Tokens per row; 1.")] = None,
    kind: Annotated[_Text, _time("prefill (default), decode, forward, ...")] = None,
    gpu: Annotated[_Text, _time("GPU type, such as a100-80gb.")] = None,
    context: Annotated[_Number, _time("Cached tokens per row; 0.")] = None,
    tensor: Annotated[_Number, _time("Tensor-parallel GPUs; 1.")] = None,
    data: Annotated[_Number, _time("Data-parallel replicas; 1.")] = None,
    pipeline: Annotated[_Number, _time("Pipeline stages; 1.")] = None,
    micro_batches: Annotated[_Number, _time("Micro-batches per iteration; 1.")] = None,
    sm_share: Annotated[_Number, _time("Share of the SMs, 0 to 1; 1.")] = None,
    precision: Annotated[_Text, _time("half (default), tensor_float or single.")] = None,
    gpus: Annotated[_Number, _memory("GPUs that states are sharded over; 1.")] = None,
    method: Annotated[_Text, _memory("full (default) or lora.")] = None,
    weight_bits: Annotated[_Number, _memory("Bits of frozen weights, 4.5 for QLoRA; 16.")] = None,
    rank: Annotated[_Number, _memory("Rank of LoRA; 0.")] = None,
    master_bytes: Annotated[_Number, _memory("Bytes of a trained number, 2 or 4; 2.")] = None,
    checkpointing: Annotated[_Flag, _memory("Keep layers' inputs only; yes by default.")] = None,
    wide_checkpoints: Annotated[_Flag, _memory("32-bit hidden states.")] = None,
    fused_kernels: Annotated[_Flag, _memory("Loss computed in place.")] = None,
    fused_loss: Annotated[_Flag, _memory("Output head and loss in one kernel.")] = None,
    accumulation: Annotated[_Number, _memory("Micro-batches per step; 1.")] = None,
    expert_parallel: Annotated[_Number, _memory("GPUs that experts are spread over; 1.")] = None,
    padding: Annotated[_Text, _memory("packed (default), padded or free.")] = None,
    quantile: Annotated[_Number, _memory("Probability of the upper quantile; 0.95.")] = None,
    sent_bytes: Annotated[
        _Number, typer.Option(help="Bytes of the message; 1.", rich_help_panel=_OF_HOPS)
    ] = None,
    coverage: Annotated[float, typer.Option(help="Coverage of the interval.")] = 0.9,
    out: Annotated[Path | None, typer.Option(help="CSV to write instead of printing.")] = None,
    as_json: Json = False,
) -> None:
    """Predict seconds of operations or hops, or peak memory of runs, by the kind of model.

    With interval and where each prediction comes from.
    """
    out_file(out, saved, points)
    given = {
        name: value
        for name, value in locals().items()
        if value is not None and name not in ("saved", "points", "coverage", "out", "as_json")
    }
    from experiments.predicting import (
        HOP,
        OPERATION,
        predict_hops,
        predict_points,
        read_points,
        write_predictions,
    )
    from experiments.predicting_memory import RUN, predict_runs
    from predictors.hops import HopModel
    from predictors.memory_model import MemoryModel
    from predictors.saving import load_model

    loaded = load_model(saved)
    of_memory, of_hops = (isinstance(loaded.model, kind) for kind in (MemoryModel, HopModel))
    said = "peak memory" if of_memory else "hops" if of_hops else "operations"
    default = RUN if of_memory else HOP if of_hops else OPERATION
    upper = float(given.pop("quantile", 0.95)) if of_memory else 0.0
    check_keywords(f"a model of {said}", given, default)
    single = {**default, **given}
    asked = [single] if points is None else read_points(points, single)
    source = str(points or "options")
    if of_memory:
        found = predict_runs(loaded.model, asked, coverage, upper, source)
    else:
        answer = predict_hops if of_hops else predict_points
        found = answer(loaded.model, asked, coverage, source)
    if out is not None:
        write_predictions(found, out)
        say(f"{len(found)} predictions in {out}")
        return
    head: dict[str, Any] = {"data_sha256": loaded.data_sha256, "coverage": coverage}
    if of_memory:
        head["quantile"] = upper
    if as_json:
        say(as_json_text({"head": head, "predictions": found}))
        return
    say(f"interval: {100 * coverage:g} %, fitted on data {loaded.data_sha256[:12]}")
    say(_memory_text(found, upper) if of_memory else _time_text(found))


def _time_text(found: list[dict[str, Any]]) -> str:
    from experiments.tables import Column, text_table

    columns = (
        *(Column(name, name, 0) for name in ("kind", "model", "gpu", "rows", "length")),
        Column("sent_bytes", "sent [bytes]", 0),
        Column("seconds", "predicted [s]", 6),
        Column("low_s", "low [s]", 6),
        Column("high_s", "high [s]", 6),
        Column("provenance", "provenance"),
    )
    shown = [column for column in columns if column.name in found[0]]
    return "\n" + text_table(found, shown)


def _memory_text(found: list[dict[str, Any]], quantile: float) -> str:
    from experiments.tables import Column, text_table

    limit = found[0]["limit_gib"]
    said = (
        "no limit was fitted: nothing is said of running out of memory"
        if limit is None
        else f"said to run out of memory: predicted above {limit:.1f} GiB of an A100 80 GB"
    )
    columns = (
        *(Column(name, name, 0) for name in ("model", "rows", "length", "gpus", "method")),
        Column("peak_gib", "predicted peak [GiB]", 2),
        Column("low_gib", "low [GiB]", 2),
        Column("high_gib", "high [GiB]", 2),
        Column("upper_gib", f"{100 * quantile:g} % below [GiB]", 2),
        Column("out_of_memory", "out of memory"),
        Column("provenance", "provenance"),
    )
    return f"peak of torch's allocator on every GPU; {said}\n\n" + text_table(found, columns)


def suggest(
    saved: Annotated[Path, typer.Argument(help="Model of operations, from 'lemix fit --out'.")],
    points: Annotated[
        Path, typer.Option(help="CSV of all points that matter, as 'lemix predict' takes it.")
    ],
    count: Annotated[int, typer.Option(help="How many shapes to measure.")] = 5,
    out: Annotated[Path | None, typer.Option(help="CSV to write instead of printing.")] = None,
    as_json: Json = False,
) -> None:
    """Name the points of a new GPU type whose measurement tells most about the others.

    One by one, each time the shape that leaves the least variance of all predictions, given that a
    new type's efficiencies are unknown. Seconds are those of the data sheet. All operations of a
    shape (forward and backward, say) count as measured together.
    """
    from experiments.predicting import OPERATION, read_points, suggest_points, write_predictions
    from experiments.tables import Column, text_table
    from predictors.saving import load_model

    loaded = load_model(saved)
    asked = read_points(points, OPERATION)
    found = suggest_points(loaded.model, asked, count, str(points))
    if out is not None and found:
        write_predictions(found, out)
        say(f"{count} shapes, {len(found)} operations in {out}")
        return
    if as_json:
        head = {"data_sha256": loaded.data_sha256, "seconds": "predicted, before measuring"}
        say(as_json_text({"head": head, "measure": found}))
        return
    shown = ("order", "kind", "model", "gpu", "rows", "length", "context", "tensor")
    columns = (*(Column(name, name, 0) for name in shown), Column("seconds", "predicted [s]", 6))
    say(text_table(found, columns))
