"""The command on recorded serving runs: `lemix replay-serving`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli_options import Json, show

if TYPE_CHECKING:
    from experiments.serving_measures import Measure
    from experiments.serving_replay import Replay, ServingReplay


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="replay-serving")(replay_serving)


def replay_serving(
    requests: Annotated[Path, typer.Argument(help="vLLM's log of requests, CSV.")],
    timeseries: Annotated[Path, typer.Argument(help="What its engine logged each second, CSV.")],
    attention: Annotated[Path, typer.Option(help="Kernel times of attention, CSV.")],
    dense: Annotated[Path, typer.Option(help="Kernel times over tokens, CSV.")],
    per_sequence: Annotated[Path, typer.Option(help="Kernel times over requests, CSV.")],
    model: Annotated[str, typer.Option(help="Shape of the model that was served.")],
    as_json: Json = False,
) -> None:
    """Replay a recorded vLLM run with iterations of a kernel profile, and say where it errs."""
    from experiments.serving_replay import replay_serving as run
    from instances.readers import read_vllm_attention, read_vllm_dense, read_vllm_per_sequence
    from instances.recordings.vllm import read_vllm
    from predictors.model_shapes import model_shape

    recording = read_vllm(requests, timeseries)
    found = run(
        recording,
        read_vllm_attention(attention),
        read_vllm_dense(dense),
        read_vllm_per_sequence(per_sequence),
        model_shape(model),
    )
    if as_json:
        show(_plain(found, dict(recording.provenance.inputs)), True)
        return
    said: dict[str, Any] = {"recorded": recording.provenance.source}
    inputs = {**recording.provenance.inputs, **found.kernels.inputs}
    said |= {f"sha256 {name}": digest for name, digest in inputs.items()}
    for number, warning in enumerate(recording.provenance.warnings, 1):
        said[f"warning {number}"] = warning
    show(said | lines(found), False)


def lines(found: ServingReplay) -> dict[str, str]:
    """Return limits, errors and their parts for people, each with unit and provenance."""
    said = {
        "requests": f"{found.requests} replayed, {found.left_out} without a last token left out"
    }
    for name, value in vars(found.limits).items():
        text = f"{value.value:.0f} {value.unit}".strip()
        if name == "ahead":
            text = "yes" if value.value else "no"
        else:
            text += f" ({value.low:.0f} to {value.high:.0f})"
        said[f"limit {name}"] = f"{text}, {value.provenance}: {value.how}"
    said["limit keep_prefix"] = "yes, assumed: vLLM's default; the log does not show it"
    for part, error in found.kernels.mape_pct.items():
        points = found.kernels.points[part]
        said[f"profile, {part}"] = f"{error:.1f} % of an iteration on held-out fifths of {points}"
    steps = found.steps
    if steps is not None:
        said["time model alone, decode iterations"] = (
            f"recorded {1e3 * steps.recorded_s:.2f} ms, predicted from the profile "
            f"{1e3 * steps.predicted_s:.2f} ms ({steps.error_pct:+.1f} %), medians of "
            f"{steps.samples} samples"
        )
    said["overhead per iteration"] = (
        f"{1e3 * found.overhead_s:.2f} ms, fitted on the first third of the recording; "
        "only in the replay of that name"
    )
    for replay in (found.primary, *found.others):
        said[f"replay: {replay.name}"] = _summary(replay)
        if replay is found.primary:
            said |= {f"  {m.name}": _measure(m) for m in replay.measures}
            for name, error in replay.mean_error_pct.items():
                said[f"  mean absolute error of {name}"] = f"{error:.1f} % of the recorded mean"
    return said


def _measure(measure: Measure) -> str:
    return (
        f"recorded {measure.recorded:.4g} s, predicted {measure.replayed:.4g} s "
        f"({measure.error_pct:+.1f} %)"
    )


def _summary(replay: Replay) -> str:
    errors = ", ".join(f"{m.error_pct:+.1f}" for m in replay.measures[:5])
    return f"{errors} %; {replay.preemptions} preemptions, {replay.iterations} iterations"


def _plain(found: ServingReplay, inputs: dict[str, str]) -> dict[str, Any]:
    def plain(replay: Replay) -> dict[str, Any]:
        return {
            "name": replay.name,
            "measures": [asdict(m) | {"error_pct": m.error_pct} for m in replay.measures],
            "mean_error_pct": replay.mean_error_pct,
            "preemptions": replay.preemptions,
            "iterations": replay.iterations,
        }

    return {
        "inputs": inputs | found.kernels.inputs,
        "limits": asdict(found.limits),
        "profile_mape_pct": found.kernels.mape_pct,
        "decode_iterations": None if found.steps is None else asdict(found.steps),
        "overhead_s": found.overhead_s,
        "requests": found.requests,
        "left_out": found.left_out,
        "replays": [plain(replay) for replay in (found.primary, *found.others)],
    }
