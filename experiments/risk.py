"""Speed against out-of-memory events: plans with quantiles of memory, executed on drawn bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.study import Problem, Study, build
from experiments.tables import Column, text_table, write_parquet
from experiments.windows import ExactSettings, cut
from lemix_opt import Trace, replay, simulate
from lemix_opt.checks import whole
from lemix_opt.errors import FieldError, LemixError, unknown
from lemix_opt.files import made_folder, write_atomically
from lemix_opt.result import versions
from lemix_opt.schedule import Schedule

RISKS = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
POLICIES = ("lemix", "mix-rr", "jsq")
STUDY = Study(load=0.9, tasks=300, training_share=0.5, room=6.0)
"""Half of the tasks train, on GPUs with room for six mean ones, so that memory binds."""
Row = dict[str, Any]


@dataclass(frozen=True)
class RiskTables:
    """What came of the risks.

    Parameters
    ----------
    runs : list of dict
        One row per risk, seed, policy or solver and window; the window is -1 for whole runs.
    summary : list of dict
        One row per risk and policy or solver, over seeds and windows.
    head : dict of str to str
        What must be said of all of them.
    """

    runs: list[Row]
    summary: list[Row]
    head: dict[str, str]


def run_risks(
    study: Study = STUDY,
    risks: Sequence[float] = RISKS,
    policies: Sequence[str] = POLICIES,
    exact: ExactSettings | None = None,
    *,
    seeds: int = 5,
    window: int = 10,
    windows: int = 4,
    progress: Callable[[str, int, int], None] | None = None,
) -> RiskTables:
    """Plan at every risk, and execute the plans on the same drawn bytes and seconds.

    A plan is a policy's run on what it believes, or the exact solver's schedule of a window; it is
    replayed in its own order. A forward whose bytes are not free at its turn, and never will be by
    what went before, is an out-of-memory event and its task is dropped.

    Parameters
    ----------
    study : Study
        Problem; its risk and seed are set by the experiment.
    risks : sequence of float
        Allowed probabilities that a task holds more than planned, each in (0, 1).
    policies : sequence of str
        Names of policies.
    exact : ExactSettings, optional
        The exact solver, for the first windows of every seed; none when omitted.
    seeds : int, default 5
        Paired seeds: arrivals, lengths, bytes and seconds are the same at all risks.
    window, windows : int, default 10 and 4
        Tasks of a window, and how many windows.
    progress : callable, optional
        Called with what is done, how much of it, and out of how much.
    """
    from solvers.registry import POLICIES as KNOWN
    from solvers.registry import SOLVERS

    for name in policies:
        if name not in KNOWN:
            raise unknown("policy", name, KNOWN.names())
    if exact is not None and exact.solver not in SOLVERS:
        raise unknown("solver", exact.solver, SOLVERS.names())
    if not risks:
        raise FieldError("none", where="risks", expected="at least one probability")
    for where, given in (("risks", risks), ("policies", policies)):
        if twice := [each for at, each in enumerate(given) if each in given[:at]]:
            # Their runs would count as more runs of one.
            raise FieldError(f"{twice[0]!r} twice", where=where, expected="each once")
    seeds = whole("seeds", seeds, minimum=1)
    runs: list[Row] = []
    head: dict[str, str] = {}
    total = seeds * len(risks)
    for seed in range(seeds):
        for at, risk in enumerate(risks):
            problem = build(replace(study, risk=risk, seed=seed))
            head = head or dict(problem.head)
            key = {"risk": risk, "seed": seed}
            for name, number, trace, plan in _plans(
                problem, policies, exact, window=window, windows=windows
            ):
                runs.append({**key, "name": name, "window": number, **_outcome(trace, plan)})
            if progress is not None:
                progress("seeds and risks", seed * len(risks) + at + 1, total)
    return RiskTables(runs, _summary(runs), _said(head, risks, seeds))


def _plans(
    problem: Problem,
    policies: Sequence[str],
    exact: ExactSettings | None,
    *,
    window: int,
    windows: int,
) -> Iterator[tuple[str, int, Trace, Schedule]]:
    """Yield name, window, what really happens and the plan."""
    from solvers import solve
    from solvers.registry import POLICIES as KNOWN

    trace = problem.trace
    for name in policies:
        yield name, -1, trace, simulate(trace.instance, KNOWN.create(name), seed=problem.seed)
    if exact is None:
        return
    for number, part in enumerate(cut(trace, window)[:windows]):
        # A schedule to begin with, so that no window is left out for want of time.
        initial = simulate(part.instance, KNOWN.create("jsq"), seed=problem.seed)
        result = solve(
            part.instance,
            exact.solver,
            problem.objective,
            time_limit_s=exact.time_limit_s,
            deterministic_limit=exact.deterministic_limit,
            seed=problem.seed,
            initial=initial,
        )
        if result.schedule is None:
            raise LemixError(
                f"{exact.solver} says {result.status}",
                where=f"window {number}, seed {problem.seed}",
                expected="a schedule, since there is one to begin with",
            )
        yield exact.solver, number, part, result.schedule


def _outcome(trace: Trace, plan: Schedule) -> Row:
    score = replay(trace, plan).score
    instance = trace.instance
    room = instance.capacity_bytes - instance.resident_bytes
    need = trace.actual.held_bytes[instance.cluster.node_class]
    too_large = ~np.all(need <= room[:, None], axis=2).any(axis=0)
    return {
        "tasks": instance.tasks,
        "out_of_memory": score.out_of_memory_events,
        "too_large": int(too_large.sum()),
        "done": score.inference_done + score.training_done,
        "response_mean_completed_s": score.response_mean_completed_s,
        "response_p99_s": score.response_p99_s,
        "slo_attainment_5x": score.slo_attainment_5x,
        "throughput_per_s": score.throughput_per_s,
        "makespan_s": score.makespan_s,
    }


_MEANS = (
    "response_mean_completed_s",
    "response_p99_s",
    "slo_attainment_5x",
    "throughput_per_s",
    "makespan_s",
)


def _summary(runs: list[Row]) -> list[Row]:
    from predictors.out_of_memory import exact_share

    found = []
    for name, risk in dict.fromkeys((row["name"], row["risk"]) for row in runs):
        rows = [row for row in runs if (row["name"], row["risk"]) == (name, risk)]
        tasks, events, large = (
            sum(row[column] for row in rows) for column in ("tasks", "out_of_memory", "too_large")
        )
        share = exact_share(events, tasks)
        means = {column: float(np.mean([row[column] for row in rows])) for column in _MEANS}
        found.append(
            {"name": name, "risk": risk, "runs": len(rows), "tasks": tasks}
            | {"out_of_memory": events, "too_large": large}
            | {"share": share.value, "low": share.low, "high": share.high}
            | means
        )
    return found


def _said(head: dict[str, str], risks: Sequence[float], seeds: int) -> dict[str, str]:
    kept = {k: v for k, v in head.items() if k not in ("seed", "load", "SLO", "objective")}
    first = f"probability {risks[0]:g}"
    return {
        **kept,
        "memory": kept["memory"].replace(first, "probability 'risk'"),
        "executed": "plans in their own order on drawn bytes and seconds; a task whose bytes are "
        "not free at its turn is dropped",
        "seeds": f"{seeds}, paired over risks; figures in this head are of seed 0",
    }


COLUMNS = (
    Column("name", "planned by"),
    Column("risk", "risk", 2),
    Column("tasks", "tasks"),
    Column("out_of_memory", "out of memory"),
    Column("too_large", "too large alone"),
    Column("share", "per task [%]", 2, True),
    Column("low", "from", 2, True),
    Column("high", "to", 2, True),
    Column("throughput_per_s", "tasks/s", 2),
    Column("makespan_s", "makespan [s]", 3),
    Column("response_mean_completed_s", "resp. mean [s]", 4),
    Column("response_p99_s", "p99 [s]", 3),
    Column("slo_attainment_5x", "SLO 5x [%]", 1, True),
)


def risk_text(tables: RiskTables) -> str:
    """Return the head and the table over seeds and windows."""
    width = max(map(len, tables.head))
    return "\n".join(
        [
            *(f"{name:{width}s}  {value}" for name, value in tables.head.items()),
            "",
            "from, to: exact binomial 95 % interval, tasks taken as independent",
            "too large alone: tasks whose drawn bytes exceed an empty GPU, lost under any plan",
            "",
            text_table(tables.summary, COLUMNS),
            "",
        ]
    )


def write_risks(tables: RiskTables, folder: Path) -> list[Path]:
    """Write tables as Parquet and text; return the files."""
    made_folder(folder)
    said = {**tables.head, **versions()}
    write_parquet(tables.runs, folder / "runs.parquet", said)
    write_parquet(tables.summary, folder / "summary.parquet", said)
    write_atomically(folder / "risk.txt", risk_text(tables).encode())
    return [folder / name for name in ("risk.txt", "runs.parquet", "summary.parquet")]
