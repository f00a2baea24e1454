"""Instances as versioned JSON, gzip by the ending `.gz`; what all JSON files share."""

from __future__ import annotations

import gzip
import logging
import math
import os
from dataclasses import fields
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from instances.json_columns import as_json, decoded
from instances.limits import within_limits
from lemix_opt.clock import since_first
from lemix_opt.cluster import Cluster
from lemix_opt.contention import Contention
from lemix_opt.costs import Costs
from lemix_opt.errors import FileFormatError, LemixError, excerpt, printable, suggest
from lemix_opt.files import check_utf8, read_content, write_atomically
from lemix_opt.generation import Generation, IterationCosts
from lemix_opt.instance import Instance
from lemix_opt.memory_wait import MemoryWait
from lemix_opt.plain import INSTANCE_HEADER, columns_to_plain
from lemix_opt.weight_sync import WeightSync
from lemix_opt.workload import FINEST_S, Workload

LOG = logging.getLogger("lemix_opt")
MAX_BYTES = 2**30
"""Largest content `read` accepts, after decompression."""

LARGE_BYTES = 2**20
"""Content from here on is packed by the fastest level of gzip."""

_HUGE = 1e300

OPTIONAL_COSTS = {"all_reduce_s": 0.0, "iteration": None}
OPTIONAL_ITERATION: dict[str, Any] = {
    "per_mixed_decode_s": 0.0,
    "per_mixed_context_token_s": 0.0,
    "token_knots": [],
    "token_s": 0.0,
}
OPTIONAL_WORKLOAD = {"origin_ns": 0}
OPTIONAL_GENERATION = {"ahead": False, "keep_prefix": False}
"""Fields that older files lack."""

_PARTS = {"cluster": Cluster, "workload": Workload, "costs": Costs}
OPTIONS = {
    "weight_sync": WeightSync,
    "memory_wait": MemoryWait,
    "contention": Contention,
    "generation": Generation,
}
"""Parts an instance may have; files written before there was such a part lack its name."""


def write_instance_json(instance: Instance, path: str | os.PathLike[str]) -> None:
    """Write an instance as JSON; see `instances.write`."""
    write_json(INSTANCE_HEADER | columns_to_plain(instance, as_json), path)


def write_json(
    plain: dict[str, Any], path: str | os.PathLike[str], *, indent: int | None = None
) -> None:
    """Write JSON, compressed when `path` ends in ``.gz``; the file appears whole or not at all.

    With `indent`, one entry per line, as suits a file that is kept under version control.
    """
    path = Path(path)
    content = msgspec.json.encode(plain)
    if indent is not None:
        content = msgspec.json.format(content, indent=indent) + b"\n"
    if path.suffix == ".gz":
        content = gzip.compress(content, 9 if len(content) < LARGE_BYTES else 1, mtime=0)
    write_atomically(path, content)


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of instance files."""
    content = (resources.files("instances") / "instance.schema.json").read_bytes()
    found: dict[str, Any] = msgspec.json.decode(content)
    return found


def read_instance_json(path: str | os.PathLike[str], max_bytes: int) -> Instance:
    """Read an instance in JSON; see `instances.read`."""
    form, version = INSTANCE_HEADER.values()
    plain = read_json(path, str(form), int(version), max_bytes)
    if _is_late(plain):
        _count_from_first(plain, Path(path), max_bytes)
    return instance_from_plain(plain, Path(path))


def _is_late(plain: dict[str, Any]) -> bool:
    """Whether floats are too far apart at some release, all of which are numbers."""
    workload = plain.get("workload")
    found = workload.get("release_s") if isinstance(workload, dict) else None
    if isinstance(found, list):
        numbers = all(isinstance(r, int | float) and not isinstance(r, bool) for r in found)
        # Larger numbers are no floats; the workload refuses them by name.
        found = np.array([float(r) for r in found if abs(r) < _HUGE]) if numbers else None
    return isinstance(found, np.ndarray) and bool(np.any(np.spacing(np.abs(found)) > FINEST_S))


def _count_from_first(plain: dict[str, Any], path: Path, max_bytes: int) -> None:
    """Count releases from the first one, by the decimals that the file spells, and say so."""
    content = read_content(path, "an instance file", max_bytes)
    parts = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    columns = msgspec.json.decode(parts["workload"], type=dict[str, msgspec.Raw])
    stamps = msgspec.json.Decoder(float_hook=Decimal).decode(columns["release_s"])
    release_s, origin_ns = since_first(stamps)
    workload = plain["workload"]
    workload["release_s"] = release_s.tolist()
    given_ns = workload.get("origin_ns", 0)
    if isinstance(given_ns, int):
        workload["origin_ns"] = given_ns + origin_ns
    LOG.warning(
        "%s: releases count from the first one, %s s (origin_ns), since floats at that time are "
        "too far apart",
        printable(str(path)),
        min(stamps),
    )


def read_json(
    path: str | os.PathLike[str], form: str, version: int, max_bytes: int = MAX_BYTES
) -> dict[str, Any]:
    """Read a JSON object of one format and version; these two fields are taken out."""
    path = Path(path)
    plain = _decode(path, max_bytes)
    found = (plain.pop("format", None), plain.pop("version", None))
    if found != (form, version):
        raise FileFormatError(
            f"format {excerpt(str(found[0]), 60)!r}, version {excerpt(str(found[1]), 20)}",
            where=str(path),
            expected=f"{form!r}, version {version}",
        )
    return plain


def instance_from_plain(plain: dict[str, Any], path: Path) -> Instance:
    """Build an instance from the fields of a file; errors name `path` and field."""
    names = [f.name for f in fields(Instance)]
    plain = dict.fromkeys(OPTIONS) | plain
    same_keys(path, "top level", plain, names)
    parts: dict[str, Any] = {}
    try:
        for name in names:
            value = plain[name]
            kind = (_PARTS | OPTIONS).get(name)
            if kind is None or (name in OPTIONS and value is None):
                parts[name] = math.nan if name == "slo_unit_s" and value is None else value
                continue
            if not isinstance(value, dict):
                raise FileFormatError(f"{type(value).__name__}", where=name, expected="an object")
            if name == "costs":
                parts[name] = costs_from_plain(value, plain, path, name)
                continue
            if name == "generation":
                value = OPTIONAL_GENERATION | value
            if name == "workload":
                value = OPTIONAL_WORKLOAD | value
            same_keys(path, name, value, [f.name for f in fields(kind)])
            if name == "workload" and isinstance(value["slo_s"], list):
                value["slo_s"] = [math.inf if v is None else v for v in value["slo_s"]]
            if name == "memory_wait" and value["max_wait_s"] is None:
                value["max_wait_s"] = math.inf
            parts[name] = kind(**value)
        within_limits(**{name: parts[name] for name in _PARTS})
        return Instance(**parts)
    except LemixError as error:
        raise located(error, path) from None


def costs_from_plain(
    value: dict[str, Any], instance: dict[str, Any], path: Path, name: str
) -> Costs:
    """Build costs from the part `name` of a file; `instance` holds the parts of their instance."""
    value = OPTIONAL_COSTS | value
    same_keys(path, name, value, [f.name for f in fields(Costs)])
    columns = {key: _shaped(key, entry, instance) for key, entry in value.items()}
    iteration = columns["iteration"]
    if iteration is not None:
        if not isinstance(iteration, dict):
            where = f"{path}: {name}.iteration"
            raise FileFormatError(
                f"{type(iteration).__name__}", where=where, expected="an object or null"
            )
        iteration = OPTIONAL_ITERATION | iteration
        same_keys(path, f"{name}.iteration", iteration, [f.name for f in fields(IterationCosts)])
        columns["iteration"] = IterationCosts(**iteration)
    return Costs(**columns)


def located(error: LemixError, path: Path) -> LemixError:
    """Return the error with the file's name in it."""
    if printable(str(path)) in str(error):
        return error
    where = f"{path}: {error.where}" if error.where else str(path)
    return type(error)(error.what, where=where, expected=error.expected, hint=error.hint)


def _shaped(name: str, entry: Any, plain: dict[str, Any]) -> Any:
    """Give cost arrays without entries back the shape that nested lists lose."""
    resident, kind = plain["costs"]["resident_bytes"], plain["workload"]["kind"]
    sized = isinstance(resident, list) and isinstance(kind, list) and isinstance(entry, list)
    if name in ("resident_bytes", "update_s", "all_reduce_s") or not sized or _leaves(entry):
        return entry
    stages = int(plain["cluster"]["stages"]) - (name == "hop_s")
    shape = (len(resident), len(kind), stages)
    # Where entries are wanted, there must be some: sizes alone are not believed.
    return entry if math.prod(shape) else np.zeros(shape)


def _leaves(entry: Any, depth: int = 3) -> bool:
    """Whether a list has entries; deeper than cost arrays are, it is looked into no further."""
    if not isinstance(entry, list) or not depth:
        return True
    return any(_leaves(part, depth - 1) for part in entry)


def _decode(path: Path, max_bytes: int) -> dict[str, Any]:
    content = read_content(path, "an instance, trace or schedule file", max_bytes)
    try:
        plain = decoded(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        check_utf8(path, content)
        raise FileFormatError(
            f"not JSON in UTF-8 ({error})", where=str(path), expected="a file made by this toolkit"
        ) from None
    if not isinstance(plain, dict):
        raise FileFormatError(
            f"a JSON {type(plain).__name__}", where=str(path), expected="a JSON object"
        )
    return plain


def same_keys(path: Path, where: str, found: dict[str, Any], wanted: list[str]) -> None:
    """Raise for the first unknown or missing field."""
    for name in found:
        if name not in wanted:
            raise FileFormatError(
                f"unknown field {excerpt(name)!r}",
                where=f"{path}: {where}",
                hint=suggest(name, wanted),
            )
    for name in wanted:
        if name not in found:
            raise FileFormatError(
                f"missing field {name!r}", where=f"{path}: {where}", expected=", ".join(wanted)
            )
