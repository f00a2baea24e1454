"""Suites in a file: a JSON list of train+serve instances, gzip by the ending ``.gz``."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from instances.benchmarks.benchmark import Benchmark, BestKnown, Mark
from instances.benchmarks.best_known import refused
from instances.datasets import VARIABLE
from lemix_opt.checks import floats, integers, whole
from lemix_opt.cluster import Cluster
from lemix_opt.costs import Costs
from lemix_opt.errors import (
    DatasetError,
    FileFormatError,
    LemixError,
    check_keywords,
    unknown,
)
from lemix_opt.files import read_content
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.workload import Workload

MIXED = "mixed.json.gz"
MAX_BYTES = 2**28
"""Largest content accepted, after decompression."""

_Count = Annotated[int, msgspec.Meta(ge=1, le=2**12)]


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One instance; scalars hold for every GPU or task, `held_bytes` for every stage."""

    name: str
    tasks: int
    nodes: _Count
    stages: _Count
    release_mode: str
    tick_s: float
    memory_bytes: float
    slo_s: float
    kind: list[int]
    release_s: list[float]
    batch: list[int]
    prompt_tokens: list[int]
    forward_s: list[list[float]]
    backward_s: list[list[float]]
    held_bytes: list[float]
    objective: Annotated[dict[str, dict[str, float]], msgspec.Meta(min_length=1)]
    proven: dict[str, float] = {}


def read_suite(path: str | os.PathLike[str], seeds: int | None = None) -> tuple[Benchmark, ...]:
    """Read a suite of train+serve instances.

    Parameters
    ----------
    path : path-like
        JSON list in the format of ``mixed.json.gz``: per instance `name`, `tasks`, `nodes`,
        `stages`, `release_mode`, `tick_s`, `memory_bytes`, `slo_s`, per task `kind`, `release_s`,
        `batch`, `prompt_tokens`, `held_bytes`, per task and stage `forward_s`, `backward_s`, the
        weightings `objective` and, where known, the optimum in seconds as `proven`.
    seeds : int, optional
        The first so many instances of every size; all when omitted.

    Raises
    ------
    FileFormatError
        If the content is no suite; the message names file and field.
    LemixError
        If an instance is refused; the message names file, instance and field.
    """
    path = Path(path)
    content = read_content(path, "a suite of instances", MAX_BYTES)
    try:
        rows = msgspec.json.decode(content, type=list[_Row])
    except msgspec.ValidationError as error:
        raise refused(path, error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileFormatError(
            f"not JSON in UTF-8 ({error})", where=str(path), expected="a suite of instances"
        ) from None
    wanted = None if seeds is None else whole("seeds", seeds, minimum=1)
    found: dict[str, Benchmark] = {}
    cells: Counter[str] = Counter()
    for i, row in enumerate(rows):
        try:
            benchmark = _benchmark(row, f"file {path.name}")
        except LemixError as error:
            field = f"[{i}].{error.where}" if error.where else f"[{i}]"
            where = f"{path}: {field}"
            raise type(error)(
                error.what, where=where, expected=error.expected, hint=error.hint
            ) from None
        if row.name in found:
            raise FileFormatError(f"{row.name!r} a second time", where=f"{path}: [{i}].name")
        cells[benchmark.cell] += 1
        if wanted is None or cells[benchmark.cell] <= wanted:
            found[row.name] = benchmark
    return tuple(found.values())


def mixed(seeds: int | None = None, *, path: str = "") -> tuple[Benchmark, ...]:
    """Return the 70 instances of ``mixed.json.gz``: 14 sizes, 5 seeds.

    Parameters
    ----------
    seeds : int, optional
        The first so many of every size.
    path : str, optional
        The file. When omitted it is looked for in the folder that ``$LEMIX_DATA`` names, in
        ``bench`` below it, and in ``bench`` beside it.

    Raises
    ------
    DatasetError
        If it is not there.
    """
    if path:
        return read_suite(path, seeds)
    if os.environ.get(VARIABLE):
        home = Path(os.environ[VARIABLE])
        for folder in (home, home / "bench", home.parent / "bench"):
            if (folder / MIXED).is_file():
                return read_suite(folder / MIXED, seeds)
    raise DatasetError(
        f"{MIXED} is not in the folder that ${VARIABLE} names, nor in bench below or beside it",
        hint="Give the path of the file instead of the name of the suite",
    )


def _benchmark(row: _Row, source: str) -> Benchmark:
    gpus, tasks = (row.nodes, row.stages), (row.tasks,)
    held = floats("held_bytes", row.held_bytes, tasks)
    instance = Instance(
        Cluster(*gpus, floats("memory_bytes", row.memory_bytes, gpus)),
        Workload(
            integers("kind", row.kind, tasks),
            floats("release_s", row.release_s, tasks),
            integers("batch", row.batch, tasks),
            integers("prompt_tokens", row.prompt_tokens, tasks),
            slo_s=floats("slo_s", row.slo_s, tasks),
        ),
        Costs(
            floats("forward_s", [row.forward_s]),
            floats("backward_s", [row.backward_s]),
            np.repeat(held[None, :, None], row.stages, axis=2),
            np.zeros((1, row.stages)),
        ),
        release_mode=row.release_mode,
        tick_s=row.tick_s,
    )
    objectives = {}
    for name, weights in row.objective.items():
        check_keywords(f"objective {name!r}", weights, _WEIGHTS)
        objectives[name] = Objective(**weights)  # type: ignore[arg-type]
    known = {}
    for name, value_s in row.proven.items():
        key = name.removesuffix("_s")
        if key not in objectives:
            raise unknown("objective under 'proven'", key, objectives)
        optimum = float(floats(f"proven.{name}", value_s, (), minimum=0))
        mark = Mark(optimum, "published", "optimum as the suite's file says")
        known[key] = BestKnown(mark, mark)
    cell = f"{row.tasks}x{row.nodes}x{row.stages}"
    return Benchmark(row.name, cell, instance, objectives, source, known)


_WEIGHTS = tuple(n for n in Objective.__dataclass_fields__ if n != "lexicographic")
