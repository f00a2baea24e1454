"""The names other projects import, in any order, and how little an import loads."""

from __future__ import annotations

import subprocess
import sys
from itertools import permutations

import pytest

LATE = ("replay", "simulate", "validate", "evaluate")


@pytest.mark.parametrize("first", ["", "import lemix_opt.replaying", "import lemix_opt.engine"])
def test_functions_are_not_hidden_by_their_modules(first: str) -> None:
    names = ", ".join(LATE)
    code = f"{first}\nfrom lemix_opt import {names}\nassert all(map(callable, [{names}]))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_import_loads_nothing_heavy() -> None:
    heavy = ("sklearn", "ortools", "matplotlib", "polars", "networkx", "scipy", "numba", "typer")
    for room in ("lemix_opt", "predictors", "instances"):
        code = f"import sys, {room}\nprint([m for m in {heavy} if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        assert done.stdout.decode().strip() == "[]", room


def test_orders_of_import_do_not_matter() -> None:
    for order in list(permutations(LATE))[:6]:
        code = "\n".join(f"from lemix_opt import {name}; assert callable({name})" for name in order)
        subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("room", ["lemix_opt", "solvers", "predictors", "instances", "experiments"])
def test_every_promised_name_is_there(room: str) -> None:
    code = (
        f"import types, {room}\n"
        f"for name in {room}.__all__:\n"
        f"    assert not isinstance(getattr({room}, name), types.ModuleType), name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_signatures_of_the_design_can_be_imported() -> None:
    code = (
        "from lemix_opt import Cluster, Workload, Costs, Instance, Objective, Schedule, Trace\n"
        "from lemix_opt import Policy, simulate, validate, evaluate, replay\n"
        "from solvers import solve, list_solvers\n"
        "from predictors import TimeModel, MemoryModel, estimate_costs\n"
        "from instances import read, write, generate, load\n"
        "from experiments import Study, compare\n"
        "assert all(map(callable, (simulate, solve, estimate_costs, generate, load, compare)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
