"""Suites by name; other distributions add theirs through entry points."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from instances.benchmarks.benchmark import Benchmark
from instances.benchmarks.best_known import BestTable, read_best_known
from instances.benchmarks.suite_files import read_suite
from lemix_opt.registry import Registry

_HERE = "instances.benchmarks"
SUITES: Registry[tuple[Benchmark, ...]] = Registry(
    "suite",
    "lemix_opt.suites",
    {
        "mixed": f"{_HERE}.suite_files:mixed",
        "p-cmax": f"{_HERE}.machines:p_cmax",
        "p-rj-cmax": f"{_HERE}.machines:p_rj_cmax",
        "r-cmax": f"{_HERE}.machines:r_cmax",
        "serving": f"{_HERE}.serving:serving",
        "serving-large": f"{_HERE}.serving:serving_large",
        "serving-medium": f"{_HERE}.serving:serving_medium",
        "serving-small": f"{_HERE}.serving:serving_small",
        "taillard-20x10": f"{_HERE}.taillard:taillard_20x10",
        "taillard-20x20": f"{_HERE}.taillard:taillard_20x20",
        "taillard-20x5": f"{_HERE}.taillard:taillard_20x5",
        "taillard-50x5": f"{_HERE}.taillard:taillard_50x5",
    },
)


def suite(
    name: str, *, seeds: int | None = None, table: BestTable | None = None
) -> tuple[Benchmark, ...]:
    """Return the instances of a suite with the best bounds known for them.

    Parameters
    ----------
    name : str
        Name out of `SUITES`, or a file in the format of `read_suite`, ending in ``.json`` or
        ``.json.gz``.
    seeds : int, optional
        The first so many instances of every cell; all when omitted.
    table : BestTable, optional
        Best bounds known; the packaged ones when omitted.

    Raises
    ------
    UnknownNameError
        If there is no suite of that name; the nearest one is named.
    """
    if name.endswith((".json", ".json.gz")):
        found = read_suite(Path(name), seeds)
    else:
        found = SUITES.create(name, seeds=seeds)
    known = read_best_known() if table is None else table
    return tuple(replace(b, best_known=known.of(b)) for b in found)
