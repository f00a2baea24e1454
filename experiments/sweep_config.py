"""The grid of a sweep, read from TOML: problems x solvers x parameters x seeds."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tomllib
from dataclasses import dataclass, fields
from datetime import date, time
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.study import Study
from instances.files import located
from lemix_opt.checks import checked_limits, whole
from lemix_opt.errors import FieldError, FileFormatError, LemixError, suggest, unknown
from lemix_opt.files import read_content
from lemix_opt.objective import Objective
from lemix_opt.result import versions

_MAX_BYTES = 2**24
_MOST_CELLS = 10**6
_TOP = ("seeds", "time_limit_s", "deterministic_limit", "objective", "instance", "solver")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Parameters
    ----------
    problem : str
        Name of the problem in the configuration.
    source : str
        Canonical JSON of the study, or path of the instance file.
    content_sha256 : str
        Hash of the study or of the file's content.
    solver : str
        Name in the registry of solvers and policies.
    parameters : str
        Canonical JSON of its parameters.
    objective : str
        Canonical JSON of the weights; empty for the problem's own.
    seed : int
        Seed of study and solver.
    time_limit_s : float
        Wall seconds of a solver.
    deterministic_limit : float or None
        Limit in the solver's own time.
    """

    problem: str
    source: str
    content_sha256: str
    solver: str
    parameters: str
    objective: str
    seed: int
    time_limit_s: float
    deterministic_limit: float | None

    @cached_property
    def key(self) -> str:
        """Hash that names the cell's file; it changes with anything that changes the result.

        That includes the versions of this package and of the libraries under it, so that an
        upgraded toolkit runs its cells again.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "problem"}
        values["versions"] = versions()
        return hashlib.sha256(canonical(values).encode()).hexdigest()[:24]


def canonical(value: Any) -> str:
    """Return JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def read_grid(path: Path) -> list[Cell]:
    """Read a sweep's configuration and return its cells in order.

    Raises
    ------
    FileFormatError
        If the file is no TOML, a field is unknown, missing or of the wrong type, or the grid has
        more than a million cells.
    FieldError
        If a value is out of range.
    UnknownNameError
        For an unknown solver or study field.
    """
    content = read_content(path, "a TOML file", _MAX_BYTES)
    try:
        plain = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileFormatError(f"{error}", where=str(path), expected="TOML") from None
    _check_dates(path, "", plain)
    try:
        return _cells(path, plain)
    except LemixError as error:
        raise located(error, path) from None


def _check_dates(path: Path, where: str, value: Any) -> None:
    """Refuse dates and times, which TOML knows and no field takes."""
    if isinstance(value, date | time):
        raise FileFormatError(
            f"the date or time {value}",
            where=f"{path}: {where.lstrip('.')}",
            expected="a number or text",
            hint="Put text into quotes",
        )
    if isinstance(value, dict):
        for name, entry in value.items():
            _check_dates(path, f"{where}.{name}", entry)
    elif isinstance(value, list):
        for at, entry in enumerate(value):
            _check_dates(path, f"{where}[{at}]", entry)


def _cells(path: Path, plain: dict[str, Any]) -> list[Cell]:
    _known(path, "top level", plain, _TOP)
    given = _typed(path, plain, "seeds", list, [0])
    seeds = [whole(f"seeds[{at}]", seed, minimum=0) for at, seed in enumerate(given)]
    limit, deterministic = checked_limits(
        plain.get("time_limit_s", 60), plain.get("deterministic_limit")
    )
    weights = _typed(path, plain, "objective", dict, {})
    if weights:
        Objective(**_checked_fields(path, "objective", weights, Objective))
    problems = [_problem(path, i, p) for i, p in enumerate(_tables(path, plain, "instance"))]
    solvers = [c for i, s in enumerate(_tables(path, plain, "solver")) for c in _solver(path, i, s)]
    count = len(problems) * len(solvers) * len(seeds)
    if count > _MOST_CELLS:
        raise FieldError(f"{count} cells", where="grid", expected=f"at most {_MOST_CELLS}")
    return [
        Cell(
            name,
            source,
            digest,
            solver,
            parameters,
            canonical(weights) if weights else "",
            seed,
            limit,
            deterministic,
        )
        for (name, source, digest), (solver, parameters), seed in itertools.product(
            problems, solvers, seeds
        )
    ]


def _typed(path: Path, plain: dict[str, Any], name: str, kind: Any, default: Any) -> Any:
    value = plain.get(name, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = getattr(kind, "__name__", "a number")
        raise FileFormatError(f"{value!r}", where=f"{path}: {name}", expected=wanted)
    return value


def _tables(path: Path, plain: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = plain.get(name)
    if not isinstance(found, list) or not all(isinstance(t, dict) for t in found) or not found:
        raise FileFormatError(
            "missing", where=f"{path}: {name}", expected=f"at least one [[{name}]] table"
        )
    return found


def _known(path: Path, where: str, table: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in table:
        if name not in known:
            raise FileFormatError(
                f"unknown field {name!r}", where=f"{path}: {where}", hint=suggest(name, known)
            )


def _checked_fields(
    path: Path, where: str, table: dict[str, Any], kind: type[Any]
) -> dict[str, Any]:
    _known(path, where, table, tuple(f.name for f in fields(kind)))
    return table


def _problem(path: Path, number: int, table: dict[str, Any]) -> tuple[str, str, str]:
    where = f"instance {number + 1}"
    _known(path, where, table, ("name", "file", "study"))
    if ("file" in table) == ("study" in table):
        raise FileFormatError(
            "both or neither of file and study", where=f"{path}: {where}", expected="one of them"
        )
    if "file" in table:
        file = path.parent / str(table["file"])
        if not file.is_file():
            raise FileFormatError("no such file", where=f"{path}: {where}: {file}")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return str(table.get("name", table["file"])), str(file), digest
    study = table["study"]
    if not isinstance(study, dict):
        raise FileFormatError("no table", where=f"{path}: {where}: study", expected="a table")
    _checked_fields(path, f"{where}: study", study, Study)
    if "seed" in study:
        raise FieldError("given", where=f"{path}: {where}: study.seed", expected="seeds at the top")
    source = canonical(study)
    digest = hashlib.sha256(source.encode()).hexdigest()
    return str(table.get("name", where)), source, digest


def _solver(path: Path, number: int, table: dict[str, Any]) -> list[tuple[str, str]]:
    """Expand lists in the parameters into their product."""
    from lemix_opt.errors import check_keywords
    from solvers import list_solvers
    from solvers.registry import POLICIES, SOLVERS

    where = f"solver {number + 1}"
    _known(path, where, table, ("name", "parameters"))
    name = str(table.get("name", ""))
    if name not in list_solvers():
        raise unknown("solver", name, list_solvers())
    given = table.get("parameters", {})
    if not isinstance(given, dict):
        raise FileFormatError("no table", where=f"{path}: {where}: parameters", expected="a table")
    registry = SOLVERS if name in SOLVERS else POLICIES
    try:
        check_keywords(f"solver {name!r}", given, registry.parameters(name))
    except LemixError as error:
        raise type(error)(error.what, where=f"{path}: {where}", hint=error.hint) from None
    lists = [v if isinstance(v, list) else [v] for v in given.values()]
    count = math.prod(map(len, lists))
    if count > _MOST_CELLS:
        raise FieldError(f"{count} cells", where=where, expected=f"at most {_MOST_CELLS}")
    return [
        (name, canonical(dict(zip(given, values, strict=True))))
        for values in itertools.product(*lists)
    ]
