"""`lemix compare` and `lemix demo`: the main job, on named data or on what the package carries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.cli_options import CUT, Json, Seed, as_json_text, out_folder, say
from lemix_opt.checks import integers, whole

Jobs = Annotated[int, typer.Option(help="Processes for the windows; 0 for one per core.")]
Perfetto = Annotated[
    int, typer.Option(help="Operations in a Perfetto trace, the first ones; 0 for all.")
]
_MOST_NODES = 4096
"""Nodes of a counterfactual cluster."""


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(compare)
    app.command()(demo)


def compare(
    requests: Annotated[str, typer.Option(help="Trace, or 'poisson' for generated arrivals.")],
    profile: Annotated[str, typer.Option(help="Measured profile or packaged calibration.")],
    out: Annotated[Path, typer.Option(help="Folder for tables, charts and traces.")],
    model: Annotated[str, typer.Option(help="Model, as the profile names it.")] = "",
    gpu: Annotated[str | None, typer.Option(help="GPU type of the profile.")] = None,
    tensor_parallel: Annotated[int, typer.Option(help="GPUs that one stage stands for.")] = 1,
    nodes: Annotated[int, typer.Option(help="Nodes.")] = 4,
    stages: Annotated[int, typer.Option(help="Pipeline stages of a node.")] = 4,
    training_share: Annotated[float, typer.Option(help="Training / all tasks.")] = 0.3,
    load: Annotated[float | None, typer.Option(help="Load to compress the gaps to.")] = None,
    rate_scale: Annotated[float | None, typer.Option(help="Factor on the rate.")] = None,
    tasks: Annotated[int, typer.Option(help="Tasks, training included.")] = 400,
    policies: Annotated[
        str, typer.Option(help="Names with commas; LeMix and the usual baselines by default.")
    ] = "",
    exact: Annotated[str, typer.Option(help="Exact solver, or 'none'.")] = "cpsat",
    time_limit: Annotated[float, typer.Option(help="Wall seconds per window.")] = 30.0,
    deterministic_limit: Annotated[
        float | None, typer.Option(help="Solver's own limit, for repeatable tables.")
    ] = None,
    window: Annotated[int, typer.Option(help="Most tasks of a window.")] = 16,
    predictor: Annotated[str, typer.Option(help="analytic, boosted or reference.")] = "analytic",
    backward_ratio: Annotated[float, typer.Option(help="Backward / forward.")] = 1.99,
    hop: Annotated[
        str, typer.Option(help="Link between stages: none, within or across machines.")
    ] = "none",
    release_mode: Annotated[str, typer.Option(help="async, sync or open.")] = "async",
    gpu_order: Annotated[str, typer.Option(help="Rule of the GPUs.")] = "reserve",
    weight_sync: Annotated[
        float, typer.Option(help="Seconds of one weight synchronisation of 'separate'.")
    ] = 0.0,
    slo_units: Annotated[float, typer.Option(help="SLO in units.")] = 5.0,
    risk: Annotated[
        float | None, typer.Option(help="Probability that a task may hold more than planned.")
    ] = None,
    time_quantile: Annotated[
        float | None, typer.Option(help="Quantile of operations' seconds to plan with.")
    ] = None,
    room: Annotated[
        float | None, typer.Option(help="Free memory of a GPU in mean training tasks.")
    ] = None,
    all_reduce_s: Annotated[
        float, typer.Option(help="Seconds of an all-reduce after each update; not part of LeMix.")
    ] = 0.0,
    perfetto: Perfetto = 100_000,
    seed: Seed = 0,
    jobs: Jobs = 0,
    as_json: Json = False,
) -> None:
    """Compare policies with each other on a run, and with the optimum on its windows."""
    from experiments.report import WRITTEN
    from experiments.study import Study

    out_folder(out, WRITTEN, requests, profile)
    study = Study(
        requests=requests,
        profile=profile,
        model=model,
        gpu=gpu,
        tensor_parallel=tensor_parallel,
        nodes=nodes,
        stages=stages,
        training_share=training_share,
        load=load,
        rate_scale=rate_scale,
        tasks=tasks,
        predictor=predictor,
        backward_ratio=backward_ratio,
        hop=hop,
        release_mode=release_mode,
        gpu_order=gpu_order,
        weight_sync_s=weight_sync,
        slo_units=slo_units,
        risk=risk,
        time_quantile=time_quantile,
        room=room,
        all_reduce_s=all_reduce_s,
        seed=seed,
    )
    limits = None if exact == "none" else (exact, time_limit, deterministic_limit)
    names = tuple(policies.split(",")) if policies else None
    _run(study, names, limits, window, jobs, out, as_json, perfetto)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo-output"),
    trace: Annotated[
        Path | None, typer.Option(help="Recorded trace; the package's own by default.")
    ] = None,
    nodes: Annotated[int, typer.Option(help="Nodes like the recorded ones.")] = 2,
    perfetto: Perfetto = 100_000,
    jobs: Jobs = 0,
    as_json: Json = False,
) -> None:
    """Run the main job on a recording that the package carries."""
    from experiments.demo import demo_problem, packaged
    from experiments.report import WRITTEN

    out_folder(out, WRITTEN, trace)
    problem = demo_problem(
        packaged() if trace is None else trace,
        int(integers("nodes", nodes, (), minimum=1, maximum=_MOST_NODES)),
    )
    _run(problem, None, ("cpsat", 20.0, None), 8, jobs, out, as_json, perfetto)


def _run(
    study: Any,
    policies: tuple[str, ...] | None,
    limits: tuple[str, float, float | None] | None,
    window: int,
    jobs: int,
    out: Path,
    as_json: bool,
    perfetto: int,
) -> None:
    import joblib

    from experiments.comparison import POLICIES
    from experiments.comparison import compare as run
    from experiments.gantt import can_plot
    from experiments.progress import progress_bar
    from experiments.report import report_text, times_text, write_report
    from experiments.windows import ExactSettings

    perfetto = whole("perfetto", perfetto, minimum=0)
    jobs = whole("jobs", jobs, minimum=0) or joblib.cpu_count()
    with progress_bar(quiet=as_json) as show:
        found = run(
            study,
            POLICIES if policies is None else policies,
            None if limits is None else ExactSettings(*limits),
            window=window,
            jobs=jobs,
            progress=show,
        )
        files = write_report(found, out, perfetto or None)
    if as_json:
        plain = {
            "head": found.problem.head,
            "cut": found.cut,
            "foot": found.problem.foot,
            "run": found.run,
            "summary": found.summary,
            "windows": found.windows,
            "times": found.times,
            "files": [str(path) for path in files],
        }
        say(as_json_text(plain))
        if found.cut:
            raise typer.Exit(CUT)
        return
    say(report_text(found))
    say(times_text(found))
    charts = "Gantt charts" if can_plot() else "no charts (pip install 'lemix-opt[plots]')"
    say(f"{len(files)} files in {out}: tables, {charts}, Perfetto traces")
    if found.cut:
        raise typer.Exit(CUT)
