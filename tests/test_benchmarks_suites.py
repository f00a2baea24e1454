"""Suites by name or file, with the bounds known for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_benchmarks_suite_files import row, written

from instances.benchmarks import SUITES, BestTable, suite
from lemix_opt.errors import UnknownNameError


def test_names_are_the_registry_s() -> None:
    assert {"taillard-20x5", "p-cmax", "p-rj-cmax", "r-cmax", "serving", "mixed"} <= set(SUITES)
    with pytest.raises(UnknownNameError, match="Did you mean 'p-cmax'"):
        suite("p-cmx")


@pytest.mark.parametrize("name", [n for n in SUITES.names() if n != "mixed"])
def test_every_suite_can_be_built(name: str) -> None:
    found = suite(name, seeds=1)
    assert found
    assert len({b.name for b in found}) == len(found) == len({b.cell for b in found})


def test_bounds_come_with_the_instances(tmp_path: Path) -> None:
    best = suite("taillard-20x5", seeds=1)[0].best_known["makespan"]
    assert best.upper is not None
    assert best.upper.value_s == 1.278
    assert suite("taillard-20x5", seeds=1, table=BestTable({}))[0].best_known == {}
    (own,) = suite(str(written(tmp_path / "own.json", [row()])))
    assert set(own.best_known) == {"slo"}


def test_an_import_loads_nothing_heavy() -> None:
    heavy = ("sklearn", "ortools", "polars", "networkx", "scipy", "numba", "typer")
    code = f"import sys, instances.benchmarks\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert done.stdout.decode().strip() == "[]"
