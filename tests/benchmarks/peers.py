"""The default solver beside PyJobShop and a textbook CP-SAT: one table, same limits and workers.

Every instance is given to all of them in a row, in turning order, so that a busy machine disturbs
them alike. Run by `make bench-peers`; `--mixed FILE` takes instances from a JSON file instead.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import exact_cases
import numpy as np
from peers_job_shop import solve_job_shop
from peers_textbook import Outcome, solve_textbook

from lemix_opt import Cluster, Costs, Instance, Objective, Workload
from solvers import solve

SIZES = ((12, 2, 2), (12, 2, 4), (16, 2, 2), (16, 4, 4))
Case = tuple[str, Instance, Objective]


OURS = "portfolio"


def ours(instance: Instance, objective: Objective, limit_s: float, workers: int) -> Outcome:
    """Solve as `solve` does by default."""
    r = solve(instance, OURS, objective, time_limit_s=limit_s, workers=workers)
    assert not isinstance(r.objective, tuple)
    assert not isinstance(r.lower_bound, tuple)
    return Outcome(r.status == "optimal", r.objective, r.lower_bound)


SOLVERS: dict[str, Callable[[Instance, Objective, float, int], Outcome]] = {
    OURS: ours,
    "textbook": solve_textbook,
    "pyjobshop": solve_job_shop,
}


def drawn(seeds: int) -> Iterator[Case]:
    """Draw the sizes from fixed seeds."""
    for size in SIZES:
        for seed in range(seeds):
            name = f"{'x'.join(map(str, size))}-{seed}"
            yield (name, *exact_cases.mixed(*size, seed))


def stored(path: Path, seeds: int) -> Iterator[Case]:
    """Take the same sizes from a file of instances, objective `slo`."""
    for row in json.loads(gzip.decompress(path.read_bytes())):
        size, seed = (row["tasks"], row["nodes"], row["stages"]), int(row["name"].split("-")[-1])
        if size not in SIZES or seed >= seeds:
            continue
        costs = Costs(
            np.array([row["forward_s"]]),
            np.array([row["backward_s"]]),
            np.repeat(np.array(row["held_bytes"], float)[None, :, None], size[2], axis=2),
            np.zeros((1, size[2])),
        )
        work = Workload(
            row["kind"], row["release_s"], row["batch"], row["prompt_tokens"], slo_s=row["slo_s"]
        )
        cluster = Cluster(size[1], size[2], float(row["memory_bytes"]))
        instance = Instance(cluster, work, costs, row["release_mode"], tick_s=row["tick_s"])
        yield row["name"], instance, Objective(**row["objective"]["slo"])


def main() -> None:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds per solve")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--mixed", type=Path)
    given = parser.parse_args()
    cases = drawn(given.seeds) if given.mixed is None else stored(given.mixed, given.seeds)
    ratios: dict[str, list[float]] = {name: [] for name in SOLVERS}
    # The first compilation after an installation belongs to no instance.
    ours(*exact_cases.mixed(6, 2, 2, 0), given.limit, given.workers)
    print("instance      " + "".join(f"{name:>28s}" for name in SOLVERS), flush=True)
    for turn, (label, instance, objective) in enumerate(cases):
        names = list(SOLVERS)
        names = names[turn % len(names) :] + names[: turn % len(names)]
        seconds, shown, best = {}, {}, {}
        for name in names:
            begin = time.perf_counter()
            found = SOLVERS[name](instance, objective, given.limit, given.workers)
            seconds[name] = time.perf_counter() - begin if found.proven else given.limit
            gap = math.nan
            if found.objective is not None and found.bound is not None:
                gap = 100 * (found.objective - found.bound) / found.objective
            shown[name] = f"{found.objective:10.3f} {gap:6.2f} % {seconds[name]:6.1f} s"
            if found.proven and found.objective is not None:
                best[name] = found.objective
        if best and max(best.values()) - min(best.values()) > 1e-6:
            print(f"{label}: proven optima differ: {best}")
        for name in SOLVERS:
            ratios[name].append(seconds[name] / seconds[OURS])
        print(f"{label:14s}" + "".join(f"{shown[name]:>28s}" for name in SOLVERS), flush=True)
    for name, found_ratios in ratios.items():
        mean = math.exp(sum(map(math.log, found_ratios)) / len(found_ratios))
        print(f"{name}: {mean:.2f} times the seconds of {OURS} (geometric mean, limit if unproven)")


if __name__ == "__main__":
    main()
