"""Tables of instances, traces and schedules, to and from the objects they stand for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from instances.files import costs_from_plain, instance_from_plain
from instances.table_zip import Columns, TableZip
from instances.trace_header import Problem
from lemix_opt.costs import Costs
from lemix_opt.errors import FileFormatError
from lemix_opt.generated import Generated, Iterations
from lemix_opt.generation import IterationCosts
from lemix_opt.instance import Instance
from lemix_opt.recording import FLOAT, INT
from lemix_opt.schedule import Operations, Schedule
from lemix_opt.workload import COLUMNS, Workload

_Arrays = dict[str, npt.NDArray[Any]]


def _columns(kind: Any, *without: str) -> dict[str, str]:
    """Columns of a class of columns: seconds and weights are numbers, all else is whole."""
    names = [f.name for f in fields(kind) if f.name not in without]
    return {n: FLOAT if n.endswith("_s") or n == "weight" else INT for n in names}


_WORKLOAD = {name: _columns(Workload)[name] for name in COLUMNS}
_OPERATIONS = _columns(Operations)
_PLACED = {"node": INT, "end_state": INT, "release_s": FLOAT}
_LOST = {"task": INT, "stage": INT, "node": INT, "time_s": FLOAT}
_GAVE_WAY = {"task": INT, "time_s": FLOAT}
_MADE = _columns(Generated, "iterations")
_SPAN = {"start_s": FLOAT, "end_s": FLOAT}
_TURNS = _columns(Iterations, *_SPAN)
_BY_TASK = ("forward_s", "backward_s", "held_bytes", "hop_s")
_BY_STAGE = ("resident_bytes", "update_s", "all_reduce_s")
_CURVE = ("token_knots", "token_s")
_ITERATION = tuple(f.name for f in fields(IterationCosts) if f.name not in _CURVE)


def _index(sizes: dict[str, int]) -> _Arrays:
    """Columns that number the entries of an array of the given shape, row by row."""
    grid = np.indices(tuple(sizes.values()), dtype=np.int64).reshape(len(sizes), -1)
    return dict(zip(sizes, grid, strict=True))


def _flat(array: npt.NDArray[Any], stages: int) -> npt.NDArray[Any]:
    """Return an array row by row; between stages there is one entry less, NaN fills it up."""
    if array.shape[-1] < stages:
        array = np.concatenate([array, np.full((*array.shape[:-1], 1), np.nan)], axis=-1)
    return array.reshape(-1)


def problem_tables(instance: Instance, sides: Mapping[str, Costs]) -> Iterator[tuple[str, Columns]]:
    """Yield the tables of tasks, GPUs and costs, under the name of their side, one at a time."""
    work, cluster = instance.workload, instance.cluster
    classes, stages = instance.costs.classes, cluster.stages
    for side, costs in sides.items():
        if costs.iteration is not None and costs.iteration.token_knots.size:
            knots, curve = costs.iteration.token_knots, costs.iteration.token_s
            yield f"{side}_knots", _index({"knot": knots.size}) | {"tokens": knots}
            sizes = {"class": classes, "stage": stages, "knot": knots.size}
            yield f"{side}_curve", _index(sizes) | {"token_s": curve.reshape(-1)}
    yield "tasks", _index({"task": work.tasks}) | {n: getattr(work, n) for n in _WORKLOAD}
    gpus = _index({"node": cluster.nodes, "stage": stages})
    yield "gpus", gpus | {"memory_bytes": cluster.memory_bytes.reshape(-1)}
    by_task = _index({"class": classes, "task": work.tasks, "stage": stages})
    for side, costs in sides.items():
        by_task |= {f"{side}_{n}": _flat(getattr(costs, n), stages) for n in _BY_TASK}
    yield "costs", by_task
    del by_task
    by_stage = _index({"class": classes, "stage": stages})
    for side, costs in sides.items():
        by_stage |= {f"{side}_{n}": getattr(costs, n).reshape(-1) for n in _BY_STAGE}
        if costs.iteration is not None:
            for name in _ITERATION:
                value = getattr(costs.iteration, name)
                by_stage[f"{side}_iteration_{name}"] = _flat(value, stages)
    yield "stages", by_stage


def schedule_tables(schedule: Schedule) -> Iterator[tuple[str, Columns]]:
    """Yield the tables of what was executed, one at a time."""
    rows, lost, made = schedule.operations, schedule.out_of_memory, schedule.generated
    types = {INT: np.int64, FLOAT: np.float64}
    yield "placed", _index({"task": schedule.tasks}) | {n: getattr(schedule, n) for n in _PLACED}
    # Tables of the engine have narrower integers.
    yield (
        "operations",
        {n: getattr(rows, n).astype(types[k], copy=False) for n, k in _OPERATIONS.items()},
    )
    yield (
        "out_of_memory",
        {
            name: np.array([event[i] for event in lost], dtype=types[kind])
            for i, (name, kind) in enumerate(_LOST.items())
        },
    )
    if schedule.gave_way:
        yield (
            "gave_way",
            {
                name: np.array([pair[i] for pair in schedule.gave_way], dtype=types[kind])
                for i, (name, kind) in enumerate(_GAVE_WAY.items())
            },
        )
    if made is not None:
        turns = made.iterations
        shape = {"iteration": turns.rows, "stage": turns.start_s.shape[1]}
        of_tasks = _index({"task": schedule.tasks})
        yield "generated", of_tasks | {n: getattr(made, n) for n in _MADE}
        yield "iterations", {n: getattr(turns, n) for n in _TURNS}
        spans = {n: getattr(turns, n).reshape(-1) for n in _SPAN}
        yield "iteration_stages", _index(shape) | spans


def _indexed(
    archive: TableZip, name: str, sizes: dict[str, int], columns: dict[str, str]
) -> _Arrays:
    """Read a table whose first columns number its rows, and shape the others accordingly."""
    found = archive.table(name, dict.fromkeys(sizes, INT) | columns)
    rows = len(found[next(iter(sizes))])
    # Sizes out of a header are not believed before the rows agree with them.
    if min(sizes.values()) < 0 or math.prod(sizes.values()) != rows:
        raise FileFormatError(
            f"{rows} rows",
            where=f"{archive.path}: {name}",
            expected=" x ".join(f"{size} ({key})" for key, size in sizes.items()),
        )
    shape = tuple(sizes.values())
    for axis, key in enumerate(sizes if rows else ()):
        # Compared by broadcasting: the wanted numbers of all rows would be as many again.
        column = found.pop(key)
        wanted = np.arange(shape[axis]).reshape(-1, *[1] * (len(shape) - 1 - axis))
        wrong = column.reshape(shape) != wanted
        if wrong.any():
            row = int(np.argmax(wrong))
            raise FileFormatError(
                f"{column[row]}",
                where=f"{archive.path}: {name}.{key}[{row}]",
                expected=f"{np.broadcast_to(wanted, shape).flat[row]}: one row for every entry, "
                "in order",
            )
    return {
        key: found[key].reshape(shape)[..., : shape[-1] - key.endswith("hop_s")] for key in columns
    }


def read_problem(archive: TableZip, problem: Problem, sides: tuple[str, ...]) -> list[Any]:
    """Return the instance, and the costs of all sides after the first, which are its own.

    Raises
    ------
    FileFormatError
        If tables are missing or damaged, or their sizes do not fit.
    LemixError
        If the instance is refused; the message names file and field.
    """
    sizes = {"node": problem.nodes, "class": problem.classes, "stage": problem.stages}
    for name, size in sizes.items():
        # numpy counts in 64 bits; what fits into the file is far less.
        possible(archive, f"problem: {name}", size, 1)
    work = archive.table("tasks", {"task": INT, **_WORKLOAD})
    by_class = {name: sizes[name] for name in ("class", "stage")}
    of_tasks = {"class": sizes["class"], "task": len(work.pop("task")), "stage": sizes["stage"]}
    memory = _indexed(
        archive, "gpus", {name: sizes[name] for name in ("node", "stage")}, {"memory_bytes": FLOAT}
    )
    by_task = _indexed(
        archive, "costs", of_tasks, {f"{side}_{n}": FLOAT for side in sides for n in _BY_TASK}
    )
    iterates = {side: getattr(problem, f"{side}_iterations") for side in sides}
    names = {
        side: _BY_STAGE + tuple(f"iteration_{n}" for n in _ITERATION if iterates[side])
        for side in sides
    }
    by_stage = _indexed(
        archive, "stages", by_class, {f"{side}_{n}": FLOAT for side in sides for n in names[side]}
    )

    def costs(side: str) -> dict[str, Any]:
        turns = {n: by_stage[f"{side}_iteration_{n}"] for n in _ITERATION if iterates[side]}
        if knots := getattr(problem, f"{side}_knots"):
            of_knots = {"knot": knots}
            turns["token_knots"] = _indexed(archive, f"{side}_knots", of_knots, {"tokens": FLOAT})[
                "tokens"
            ]
            turns["token_s"] = _indexed(
                archive, f"{side}_curve", by_class | of_knots, {"token_s": FLOAT}
            )["token_s"]
        return {
            # Taken out, since objects copy them.
            **{n: by_task.pop(f"{side}_{n}") for n in _BY_TASK},
            **{n: by_stage[f"{side}_{n}"] for n in _BY_STAGE},
            "iteration": turns or None,
        }

    plain: dict[str, Any] = problem.rules()
    plain["cluster"] = {
        "nodes": problem.nodes,
        "stages": problem.stages,
        "node_class": problem.node_class,
        **memory,
    }
    plain["workload"] = {**work, "origin_ns": problem.origin_ns}
    plain["costs"] = costs(sides[0])
    others = [costs_from_plain(costs(side), plain, archive.path, side) for side in sides[1:]]
    return [instance_from_plain(plain, archive.path), *others]


def possible(archive: TableZip, name: str, size: int, least: int) -> None:
    """Raise for a size out of a header that no array has."""
    if not least <= size <= archive.max_bytes:
        raise FileFormatError(
            f"{size}", where=f"{archive.path}: {name}", expected="a possible number"
        )


def read_schedule(archive: TableZip, generated: bool, tasks: int, stages: int) -> Schedule:
    """Return what was executed.

    Raises
    ------
    FileFormatError
        If tables are missing or damaged, or their sizes do not fit.
    LemixError
        If the schedule is refused.
    """
    placed = _indexed(archive, "placed", {"task": tasks}, _PLACED)
    lost = archive.table("out_of_memory", _LOST)
    made = None
    if generated:
        turns = archive.table("iterations", _TURNS)
        shape = {"iteration": len(turns["node"]), "stage": stages}
        spans = _indexed(archive, "iteration_stages", shape, _SPAN)
        made = Generated(
            **_indexed(archive, "generated", {"task": tasks}, _MADE),
            iterations=Iterations(**turns, **spans),
        )
    gave_way: Any = ()
    if "gave_way" in archive.tables():
        places = archive.table("gave_way", _GAVE_WAY)
        gave_way = zip(places["task"].tolist(), places["time_s"].tolist(), strict=True)
    events = zip(*(column.tolist() for column in lost.values()), strict=True)
    return Schedule(
        placed["node"],
        Operations(**archive.table("operations", _OPERATIONS)),
        placed["end_state"],
        placed["release_s"],
        tuple(events),
        made,
        tuple(gave_way),
    )
