"""Commands on recordings and traces: `lemix import`, `lemix record`, `lemix trace`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from experiments.cli_options import Json, Seed, out_file, show
from lemix_opt.errors import FieldError

_SHOWN = 256
"""Most phases, steps and metrics that are printed."""


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(name="import")(import_recording)
    app.command()(record)
    app.command()(trace)


def import_recording(
    reader: Annotated[str, typer.Argument(help="kineto, nvidia-smi, otlp, timeline or vllm.")],
    files: Annotated[list[Path], typer.Argument(help="What to read; several ranks for kineto.")],
    out: Annotated[Path, typer.Option(help="Trace file to write.")],
    option: Annotated[
        list[str] | None,
        typer.Option("--set", help="Option of the reader, as name=value or name={JSON}."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn what a program wrote into a trace file, and say what is in it."""
    from instances.readers import READERS, RECORDINGS
    from instances.trace_files import write_trace
    from lemix_opt.recording import Recording

    out_file(out, *files)
    given: dict[str, Any] = {}
    for text in option or []:
        name, value = _option(reader, text)
        if name in given or name == "path":
            what = "given by FILES" if name == "path" else "given twice"
            raise FieldError(what, where=f"--set {name}", expected="each option once")
        given[name] = value
    if len(files) > 1 and reader in RECORDINGS and reader != "kineto":
        raise FieldError(
            f"{len(files)} files", where=reader, expected="one; only kineto's are ranks of one run"
        )
    source: Any = list(files) if len(files) > 1 else files[0]
    found = READERS.create(reader, path=source, **given)
    if not isinstance(found, Recording):
        raise FieldError(
            f"{reader!r} reads tables", where="READER", expected=", ".join(sorted(RECORDINGS))
        )
    write_trace(found, out)
    show(_timelines(found), as_json)


def _option(reader: str, text: str) -> tuple[str, Any]:
    """Split ``name=value``; texts and files are taken as they stand, all else is JSON."""
    from instances.readers import READERS

    name, equals, value = text.partition("=")
    if not equals:
        raise FieldError(f"{text!r}", where="--set", expected="name=value")
    wanted = inspect.signature(READERS.factory(reader)).parameters.get(name)
    if wanted is None or isinstance(wanted.default, str):
        return name, value
    try:
        found = msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FieldError(
            f"{value[:60]!r} ({error})", where=f"--set {name}", expected="a number or a JSON object"
        ) from None
    if isinstance(wanted.default, int | float) and type(found) not in (int, float):
        raise FieldError(f"{value[:60]!r}", where=f"--set {name}", expected="a number")
    return name, found


def record(
    out: Annotated[Path, typer.Option(help="Trace file to write.")],
    tasks: Annotated[int, typer.Option(help="Tasks, training included.")] = 60,
    training_share: Annotated[float, typer.Option(help="Training / all tasks.")] = 0.3,
    rate: Annotated[float, typer.Option(help="Requests per second (Poisson).")] = 3.0,
    batch: Annotated[int, typer.Option(help="Rows of every task.")] = 4,
    longest: Annotated[int, typer.Option(help="Cut sequences to so many tokens.")] = 256,
    nodes: Annotated[int, typer.Option(help="Replicas.")] = 1,
    stages: Annotated[int, typer.Option(help="Pipeline stages of a replica.")] = 2,
    hidden: Annotated[int, typer.Option(help="Width of the model.")] = 128,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 4,
    layers: Annotated[int, typer.Option(help="Layers of the whole model.")] = 8,
    vocabulary: Annotated[int, typer.Option(help="Tokens known.")] = 1024,
    release_mode: Annotated[str, typer.Option(help="async or sync.")] = "async",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(help="Threads of a stage on a processor.")] = 1,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run a pipeline of transformer stages for real and write its trace (needs PyTorch)."""
    from experiments.recorder.recorder import Settings
    from experiments.recorder.recorder import record as run
    from instances.trace_files import write_trace

    out_file(out)
    found = run(
        Settings(
            tasks=tasks,
            training_share=training_share,
            rate_per_s=rate,
            batch=batch,
            longest=longest,
            nodes=nodes,
            stages=stages,
            hidden=hidden,
            heads=heads,
            layers=layers,
            vocabulary=vocabulary,
            release_mode=release_mode,
            device=device,
            threads=threads,
            seed=seed,
        )
    )
    write_trace(found, out)
    trace(out, as_json)


def trace(
    path: Annotated[Path, typer.Argument(help="Trace file.")],
    as_json: Json = False,
) -> None:
    """Print what a trace file holds: truth, provenance, counts, times, warnings."""
    from instances.trace_files import read_header, read_recording, read_trace

    header = read_header(path)
    said: dict[str, Any] = {}
    if header.problem is not None:
        found = read_trace(path)
        work, cluster = found.instance.workload, found.instance.cluster
        said["tasks"] = (
            f"{work.tasks}: {int(work.is_inference.sum())} inference, "
            f"{int(work.is_training.sum())} training, {found.instance.release_mode}"
        )
        said["cluster"] = f"{cluster.nodes} nodes x {cluster.stages} stages"
        if found.schedule is not None:
            end = float(found.schedule.operations.end_s.max(initial=0.0))
            states = int((found.schedule.end_state == 0).sum())
            said["executed"] = f"{states} tasks done, {found.schedule.operations.rows} operations "
            said["executed"] += f"in {end:.6g} s"
        else:
            said["executed"] = "no schedule: replay a policy or a schedule file"
    if header.recording:
        said |= _timelines(read_recording(path))
    else:
        said |= _provenance(header.provenance)
    show(said, as_json)


def _provenance(said: Any) -> dict[str, Any]:
    lines: dict[str, Any] = {"truth": f"{said.truth}: {said.source}", "clock": said.clock}
    lines["tools"] = ", ".join(f"{name} {version}" for name, version in said.tools.items()) or "-"
    for name, digest in said.inputs.items():
        lines[f"sha256 {name}"] = digest
    for number, warning in enumerate(said.warnings, 1):
        lines[f"warning {number}"] = warning
    return lines


def _timelines(recording: Any) -> dict[str, Any]:
    """Return counts and times of a recording, for people."""
    import numpy as np

    from instances.recordings.steps import devices_of, steps_of
    from lemix_opt.percentile import percentile
    from lemix_opt.recording import UNKNOWN

    lines = _provenance(recording.provenance)
    spans, requests, samples = recording.spans, recording.requests, recording.samples
    if spans.rows:
        length = spans["end_s"].max() - spans["start_s"].min()
        lines["spans"] = f"{spans.rows} over {length:.6g} s"
        lengths = spans["end_s"] - spans["start_s"]
        phases, phase = np.unique(spans["phase"], return_inverse=True)
        counts, seconds = np.bincount(phase), np.bincount(phase, lengths)
        for number, name in enumerate(phases[:_SHOWN].tolist()):
            text = f"{counts[number]}, {seconds[number]:.6g} s in all"
            lines[f"  {name[:40] or '(no phase)'}"] = text
        _say_more(lines, len(phases), "phases")
        steps = steps_of(spans) if "step" in phases else []
        devices = devices_of(spans) if steps else []
        for row in [*devices[:_SHOWN], *steps[:_SHOWN]]:
            name = f"  rank {row.pop('rank'):.0f}"
            name += f" step {row.pop('step'):.0f}" if "step" in row else ""
            device = row.pop("device")
            name += " processor" if device == UNKNOWN else f" device {device:.0f}"
            lines[name] = ", ".join(
                f"{key[:-2]} {1e3 * value:.6g} ms" for key, value in row.items()
            )
        _say_more(lines, len(steps), "steps")
    if requests.rows:
        ends = np.append(requests["last_token_s"], requests["queued_s"])
        lines["requests"] = (
            f"{requests.rows} over {np.nanmax(ends):.6g} s, "
            f"{int(np.isnan(requests['last_token_s']).sum())} without a last token"
        )
        for said, name in (("first token", "first_token_s"), ("last token", "last_token_s")):
            after_s = requests[name] - requests["queued_s"]
            after_s = after_s[~np.isnan(after_s)]
            if after_s.size:
                middle, high = (percentile(after_s, q) for q in (50, 95))
                text = f"{middle:.6g} s after arrival in the median, 95th percentile {high:.6g} s"
                lines[f"  {said}"] = f"{text}, of {after_s.size}"
    if samples.rows:
        length = samples["time_s"].max() - samples["time_s"].min()
        metrics = sorted(set(samples["metric"].tolist()))
        named = ", ".join(name[:40] for name in metrics[:_SHOWN])
        lines["samples"] = f"{samples.rows} over {length:.6g} s: {named}"
        _say_more(lines, len(metrics), "metrics")
    return lines


def _say_more(lines: dict[str, Any], found: int, what: str) -> None:
    """Say how many entries of one kind are not shown."""
    if found > _SHOWN:
        lines[f"  ({what} not shown)"] = found - _SHOWN
