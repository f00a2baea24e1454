"""Commands on schedules and traces: `lemix validate`, `lemix replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from experiments.cli_options import Json, as_json_text, out_file, say, show
from lemix_opt.errors import FieldError


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(validate)
    app.command()(replay)


def validate(
    instance: Annotated[Path, typer.Argument(help="Instance file.")],
    schedule: Annotated[Path, typer.Argument(help="Schedule file.")],
    explain: Annotated[bool, typer.Option(help="Print the critical path too.")] = False,
    as_json: Json = False,
) -> None:
    """Check a schedule against every rule of its instance; exit code 1 on violations."""
    import instances
    from instances.schedule_files import read_schedule
    from lemix_opt.graph import explain as path_of
    from lemix_opt.validation import validate as check

    problem, plan = instances.read(instance), read_schedule(schedule)
    found = check(problem, plan)
    if as_json:
        plain = [{"rule": v.rule, "message": v.message, "task": v.task} for v in found]
        say(as_json_text({"feasible": not found, "violations": plain}))
    else:
        for violation in found:
            say(f"{violation.rule}: {violation.message}")
        say(f"{len(found)} violations" if found else "feasible")
        if explain:
            say(path_of(problem, plan))
    if found:
        raise typer.Exit(1)


def replay(
    trace: Annotated[Path, typer.Argument(help="Trace file.")],
    policy: Annotated[str, typer.Option(help="Policy that decides anew.")] = "",
    schedule: Annotated[Path | None, typer.Option(help="Schedule file to repeat.")] = None,
    timing: Annotated[str, typer.Option(help="order or planned.")] = "order",
    seed: Annotated[int, typer.Option(help="Seed of the policy.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to write what happened.")] = None,
    as_json: Json = False,
) -> None:
    """Replay a schedule, or run a policy, under the actual costs of a trace."""
    from instances.schedule_files import read_schedule, write_schedule
    from instances.trace_files import read_trace
    from lemix_opt.replaying import replay as run
    from solvers.registry import POLICIES

    out_file(out, trace, schedule)
    recorded = read_trace(trace)
    plan = read_schedule(schedule) if schedule is not None else recorded.schedule
    if bool(policy) == (schedule is not None) and (policy or plan is None):
        raise FieldError(
            "both" if policy else "neither",
            where="--policy, --schedule",
            expected="one of them, or a trace with a schedule of its own",
        )
    chosen: Any = POLICIES.create(policy) if policy else plan
    outcome = run(recorded, chosen, timing=timing, seed=seed)
    if out is not None:
        write_schedule(outcome.schedule, out)
    said: dict[str, Any] = {"truth": f"{outcome.truth}: {outcome.provenance}"}
    said |= outcome.score.as_dict()
    shift = outcome.end_shift_s
    if shift is not None and np.isfinite(shift).any():
        done = shift[np.isfinite(shift)]
        said["end_shift_mean_s"] = float(done.mean())
        said["end_shift_largest_s"] = float(done[np.argmax(np.abs(done))])
    show(said, as_json)
