"""No result passes whose claims do not hold."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_instances import PATIENT_S, REGULAR, tiny

import instances
from lemix_opt import Instance, Objective
from lemix_opt.errors import InternalError
from lemix_opt.result import Result
from solvers import solve
from solvers.checked import checked
from solvers.registry import SOLVERS


@pytest.fixture(name="solved")
def _solved() -> tuple[Instance, Result]:
    instance = tiny(11, "async", False)
    return instance, solve(instance, "cpsat", REGULAR, time_limit_s=PATIENT_S)


def moved(result: Result, by_s: float) -> Result:
    assert result.schedule is not None
    rows = result.schedule.operations
    start = rows.start_s.copy()
    start[0] += by_s
    broken = replace(rows, start_s=start, end_s=rows.end_s.copy() + (start - rows.start_s))
    return replace(result, schedule=replace(result.schedule, operations=broken))


FALSE_CLAIMS: dict[str, Any] = {
    "no schedule": lambda r: replace(r, schedule=None),
    "no objective": lambda r: replace(r, objective=None),
    "a broken rule": lambda r: moved(r, 1000.0),
    "another objective": lambda r: replace(r, objective=r.objective * (1 - 1e-5)),
    "more levels": lambda r: replace(r, objective=(r.objective, 0.0)),
    "no bound": lambda r: replace(r, lower_bound=None),
    "a bound too low for a proof": lambda r: replace(r, lower_bound=r.objective * (1 - 1e-5)),
    "a bound above": lambda r: replace(r, lower_bound=r.objective * (1 + 1e-4)),
    "infeasible": lambda r: replace(r, status="infeasible", schedule=None, objective=None),
}


@pytest.mark.parametrize("claim", FALSE_CLAIMS)
def test_false_claims_are_internal_errors_with_the_instance_in_a_file(
    solved: tuple[Instance, Result], claim: str
) -> None:
    instance, result = solved
    assert checked(instance, REGULAR, result) == result
    with pytest.raises(InternalError, match="fault of the toolkit") as caught:
        checked(instance, REGULAR, FALSE_CLAIMS[claim](result))
    path = Path(re.findall(r"written to (\S+\.json)", str(caught.value))[0])
    assert instances.read(path) == instance
    path.unlink()


def test_last_bits_of_a_bound_are_cut(solved: tuple[Instance, Result]) -> None:
    instance, result = solved
    assert isinstance(result.objective, float)
    high = replace(result, lower_bound=result.objective * (1 + 1e-15))
    assert checked(instance, REGULAR, high).lower_bound == result.objective


def test_a_registered_solver_cannot_pass_the_gate_either(
    solved: tuple[Instance, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, result = solved

    class Liar:
        def solve(self, instance: Instance, objective: Objective, **_: Any) -> Result:
            return replace(moved(result, 1000.0), solver="liar")

    monkeypatch.setattr(SOLVERS, "create", lambda *_, **__: Liar())
    with pytest.raises(InternalError, match="liar returned"):
        solve(instance, "cpsat", REGULAR)
