"""One benchmark instance: the problem, its objectives, and the best bounds known for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from lemix_opt.checks import IntArray, whole
from lemix_opt.cluster import Cluster
from lemix_opt.costs import Costs
from lemix_opt.errors import FieldError, unknown
from lemix_opt.grid import to_seconds
from lemix_opt.instance import Instance
from lemix_opt.objective import Objective
from lemix_opt.workload import INFERENCE, Workload

TICK_S = 0.001
"""Seconds of a tick; a time unit of the literature is one tick, so that 1278 units are 1.278 s."""

MAKESPAN: Mapping[str, Objective] = {"makespan": Objective(makespan=1.0)}


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One value of an objective, and how it is known.

    Parameters
    ----------
    value_s : float
        The objective in seconds.
    solver : str
        What found it; ``published`` for values out of the literature.
    certificate : str
        Why it may be believed.
    date : str, optional
        Day it was found, ``YYYY-MM-DD``; empty when not recorded.
    machine : str, optional
        Processor and threads; empty when not recorded.
    seconds : float, optional
        Wall seconds it took.
    """

    value_s: float
    solver: str
    certificate: str
    date: str = ""
    machine: str = ""
    seconds: float | None = None


class BestKnown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Best bounds known for one instance and objective.

    Parameters
    ----------
    lower, upper : Mark, optional
        Largest proven lower bound and smallest value of a schedule; None when unknown.
    """

    lower: Mark | None = None
    upper: Mark | None = None


@dataclass(frozen=True)
class Benchmark:
    """One instance of a suite.

    Parameters
    ----------
    name : str
        Name of the instance.
    cell : str
        What it shares with the other seeds of its suite: size, load or class.
    instance : Instance
        The problem.
    objectives : mapping of str to Objective
        Weightings it is judged by; the first one is the default.
    source : str
        Where it comes from, as tables say it; generated costs say ``synthetic``.
    best_known : mapping of str to BestKnown
        What is known, by objective; objectives without an entry are open.
    """

    name: str
    cell: str
    instance: Instance
    objectives: Mapping[str, Objective]
    source: str
    best_known: Mapping[str, BestKnown] = field(default_factory=dict)

    def objective(self, name: str = "") -> Objective:
        """Return the objective called `name`, or the default one.

        Raises
        ------
        UnknownNameError
            If the suite has no objective of that name; the nearest one is named.
        """
        name = name or self.default_objective
        if name not in self.objectives:
            raise unknown(f"objective of {self.name}", name, self.objectives)
        return self.objectives[name]

    @property
    def default_objective(self) -> str:
        """Name of the first objective."""
        return next(iter(self.objectives))

    def fingerprint(self, objective: str) -> str:
        """Return 16 hexadecimal digits that change with the problem or the objective.

        Bounds are kept under them, so that a generator which draws other numbers, as another
        version of numpy might, never inherits bounds of another problem.
        """
        problem, digest = self.instance, hashlib.sha256()
        columns: tuple[npt.ArrayLike, ...] = (
            problem.cluster.node_class,
            problem.cluster.memory_bytes,
            problem.workload.kind,
            problem.workload.release_s,
            problem.workload.weight,
            problem.workload.slo_s,
            problem.costs.forward_s,
            problem.costs.backward_s,
            problem.costs.held_bytes,
            problem.costs.resident_bytes,
            problem.costs.update_s,
            problem.costs.hop_s,
            problem.memory_fraction,
            problem.tick_s,
        )
        for column in columns:
            array = np.ascontiguousarray(column, dtype="<f8")
            digest.update(repr(array.shape).encode() + array.tobytes())
        rules = (problem.release_mode, problem.fifo, problem.pipeline, problem.micro_batches)
        digest.update(repr((rules, astuple(self.objective(objective)))).encode())
        return digest.hexdigest()[:16]


def inference_instance(
    units: npt.NDArray[np.int64],
    *,
    node_class: Iterable[int] = (0,),
    release_units: IntArray | None = None,
    fifo: bool = False,
) -> Instance:
    """Return a machine scheduling problem as an instance without training or memory.

    Parameters
    ----------
    units : ndarray of int, shape (K, T, S)
        Duration of every task by node class and stage, in time units of one tick of 1 ms.
    node_class : iterable of int, default (0,)
        Class of every node.
    release_units : ndarray of int, shape (T,), optional
        Releases in time units, non-decreasing; all at 0 when omitted.
    fifo : bool, default False
        Whether all stages keep one order, as in a permutation flow shop.
    """
    classes = np.array(tuple(node_class))
    none = np.zeros(units.shape)
    tasks, stages = units.shape[1:]
    ones = np.ones(tasks, dtype=np.int64)
    release = np.zeros(tasks, dtype=np.int64) if release_units is None else release_units
    return Instance(
        Cluster(classes.size, stages, np.ones((classes.size, stages)), classes),
        Workload(np.full(tasks, INFERENCE), to_seconds(release, TICK_S), ones, ones),
        Costs(to_seconds(units, TICK_S), none, none, none[:, 0]),
        release_mode="open",
        fifo=fifo,
        tick_s=TICK_S,
    )


def first_seeds(seeds: int | None, most: int) -> range:
    """Return the seeds 0, 1, … that a suite is asked for, all `most` of them by default.

    Raises
    ------
    FieldError
        If there are not that many.
    """
    wanted = most if seeds is None else whole("seeds", seeds, minimum=1)
    if wanted > most:
        raise FieldError(f"{wanted}", where="seeds", expected=f"at most the {most} of the suite")
    return range(wanted)
