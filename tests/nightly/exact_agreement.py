"""Exact solvers against the optimum of thousands of tiny problems, drawn one by seed.

Run from the root of the repository, with the tests on the path:

    PYTHONPATH=tests python -m nightly.exact_agreement --count 10000 --jobs 2

Every disagreement is one line that begins with its seed; ``--start SEED --count 1`` repeats it, and
``--start`` also goes on with a run that was stopped. The exit code is 1 if there was any.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from multiprocessing import get_context

import numpy as np

from lemix_opt.errors import UnsupportedError
from lemix_opt.evaluation import objective_value
from lemix_opt.result import Result
from lemix_opt.validation import validate
from solvers import solve

from .drawn import Drawn, draw, instance_of, objective_of

SOLVERS = ("cpsat", "milp", "portfolio")
TIME_LIMIT_S = {"cpsat": 20.0, "milp": 3.0, "portfolio": 20.0}
MOST_NONZEROS = 6_000
"""Largest program that `milp` gets; larger ones are not solved soon."""
EVERY = 500


@dataclass(frozen=True)
class Verdict:
    """What a solver made of a problem, and what is wrong with it."""

    seed: int
    solver: str
    outcome: str
    faults: tuple[str, ...] = ()


def tolerances_s(drawn: Drawn, optimum: tuple[Fraction, ...]) -> list[float]:
    """Return by level how far seconds may be off: less than any two values on the grid differ.

    Relative to what the level adds to the origin, since a share of the origin is no precision.
    """
    d, found = drawn.digits, []
    for names, value in zip(drawn.levels, optimum, strict=True):
        origin = d.origin_s * d.price * drawn.prices["makespan"] if "makespan" in names else 0
        step = float(d.unit_s * d.price / d.weight.denominator)
        charged = sum(drawn.prices[name] for name in names if name != "late") * float(d.price)
        weights = 1 + float(drawn.weight.sum() * d.weight)
        # Every end is off by up to a space between floats at its own size.
        noise = 4 * charged * weights * drawn.tasks * math.ulp(float(d.origin_s) + 1)
        found.append(0.01 * step + 1e-6 * float(value - origin) + noise)
    return found


def faults(drawn: Drawn, optimum: tuple[Fraction, ...], result: Result) -> Iterator[str]:
    """Say what a result claims wrongly, given the true optimum."""
    instance, objective = instance_of(drawn), objective_of(drawn)
    truth, near = list(map(float, optimum)), tolerances_s(drawn, optimum)
    if result.status == "infeasible":
        yield "infeasible, though there is a schedule"
    limited = "limit" in result.explanation or result.runtime_s > 0.8 * TIME_LIMIT_S[result.solver]
    whole = drawn.on_grid
    if result.status == "unknown" and not limited:
        yield f"unknown: {result.explanation}"
    if result.status == "feasible" and whole and not limited:
        yield f"not proven: {result.explanation or 'no explanation'}"
    if result.schedule is not None:
        violations = validate(instance, result.schedule)
        if violations:
            yield f"invalid schedule: {violations[0].message}"
        own = np.atleast_1d(objective_value(instance, result.schedule, objective)).tolist()
        told = np.atleast_1d(np.array(result.objective)).tolist()
        if own != told:
            yield f"objective {told}, the schedule's is {own}"
        # The first level that differs decides; the ones behind it cannot be compared.
        for level, (found, wanted, off) in enumerate(zip(told, truth, near, strict=True)):
            if found < wanted - off:
                yield f"level {level}: objective {found!r} below the optimum {wanted!r}"
            if found > wanted + off and result.status == "optimal":
                yield f"level {level}: optimal at {found!r}, the optimum is {wanted!r}"
            if abs(found - wanted) > off:
                break
    if result.lower_bound is not None:
        bounds = np.atleast_1d(np.array(result.lower_bound)).tolist()
        # A bound of a level holds where all levels before it are at their optima.
        for level, (low, wanted, off) in enumerate(zip(bounds, truth, near, strict=True)):
            if low > wanted + off:
                yield f"level {level}: bound {low!r} above the optimum {wanted!r}"
            if abs(low - wanted) > off:
                break


def judge(seed: int, solvers: tuple[str, ...] = SOLVERS) -> list[Verdict]:
    """Solve one problem with every solver and compare with its optimum."""
    drawn, optimum = draw(seed)
    instance, objective = instance_of(drawn), objective_of(drawn)
    verdicts = []
    for solver in solvers:
        more = {"max_nonzeros": MOST_NONZEROS} if solver == "milp" else {}
        try:
            result = solve(instance, solver, objective, time_limit_s=TIME_LIMIT_S[solver], **more)
        except UnsupportedError as error:
            wrong = () if "max_nonzeros" in str(error) else (str(error),)
            verdicts.append(Verdict(seed, solver, "too large", wrong))
            continue
        except Exception as error:
            # Any error on one problem is a finding, and the others are still to be tried.
            crash = f"{type(error).__name__}: {error}"
            verdicts.append(Verdict(seed, solver, "error", (crash,)))
            continue
        outcome = result.status
        if outcome == "feasible":
            outcome = "not proven" if drawn.on_grid else "between ticks"
        verdicts.append(Verdict(seed, solver, outcome, tuple(faults(drawn, optimum, result))))
    return verdicts


def run(seeds: range, solvers: tuple[str, ...], jobs: int) -> Iterator[list[Verdict]]:
    """Judge seed after seed, in order, over some processes."""
    task = partial(judge, solvers=solvers)
    if jobs == 1:
        yield from map(task, seeds)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(task, seeds, chunksize=5)


def report(seeds: range, solvers: tuple[str, ...] = SOLVERS, jobs: int = 1) -> list[Verdict]:
    """Judge all seeds, print faults as they come and progress; return the faulty verdicts."""
    outcomes: Counter[tuple[str, str]] = Counter()
    faulty: list[Verdict] = []
    begin = time.perf_counter()
    for done, verdicts in enumerate(run(seeds, solvers, jobs), start=1):
        for verdict in verdicts:
            outcomes[verdict.solver, verdict.outcome] += 1
            for fault in verdict.faults:
                print(f"seed {verdict.seed} {verdict.solver}: {fault}", flush=True)
        faulty += [verdict for verdict in verdicts if verdict.faults]
        if done % EVERY == 0 or done == len(seeds):
            spent = time.perf_counter() - begin
            print(
                f"{done} of {len(seeds)} problems, up to seed {seeds[done - 1]}: "
                f"{len(faulty)} disagreements, {spent:.0f} s",
                flush=True,
            )
    for (solver, outcome), count in sorted(outcomes.items()):
        print(f"{solver:10s} {outcome:28s} {count}")
    return faulty


def main() -> int:
    """Read the command line and judge."""
    parser = argparse.ArgumentParser(description="Exact solvers against an exhaustive search.")
    parser.add_argument("--count", type=int, default=10_000, help="number of problems")
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--solvers", nargs="+", default=SOLVERS, choices=SOLVERS)
    given = parser.parse_args()
    seeds = range(given.start, given.start + given.count)
    return 1 if report(seeds, tuple(given.solvers), given.jobs) else 0


if __name__ == "__main__":
    sys.exit(main())
