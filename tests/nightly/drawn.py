"""Tiny problems in whole numbers, and the same in seconds and bytes of many origins and digits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from lemix_opt import Cluster, Costs, Instance, Objective, Workload
from lemix_opt.objective import TERMS

from .exhaustive import ASYNC, OPEN, SYNC, Tables, Whole, least_cost

MODES = {"open": OPEN, "async": ASYNC, "sync": SYNC}
KINDS = ("mixed", "instant", "long", "flow", "placement", "training", "crowded")
MIB = 2**20
NEVER_LATE = -1
MOST_STARTS = 100_000
"""Starts beyond which a problem is made smaller; they take a tenth of a second."""


@dataclass(frozen=True)
class Digits:
    """How whole numbers become seconds, bytes and weights.

    Parameters
    ----------
    origin_s, unit_s : Fraction
        Seconds at time 0, and of one whole number.
    ticks : int
        Whole numbers per tick of the solver; above 1 times may lie between ticks.
    unit_bytes : Fraction
        Bytes of one whole number.
    spare_bytes : int
        Bytes by which a task may hold less, or a GPU have more, without anything else fitting.
    fraction : float
        Share of every GPU's memory that may be used.
    price, weight : Fraction
        What one whole number of a term's weight, and of a task's weight, stands for.
    """

    origin_s: Fraction
    unit_s: Fraction
    ticks: int
    unit_bytes: Fraction
    spare_bytes: int
    fraction: float
    price: Fraction
    weight: Fraction


@dataclass(frozen=True)
class Drawn:
    """A problem in whole numbers; costs by class, as in `lemix_opt.Costs`.

    `due` counts from a task's own release, `NEVER_LATE` for none; `levels` names the terms that
    are minimised together, in order of importance.
    """

    seed: int
    mode: str
    fifo: bool
    kind: Whole
    release: Whole
    weight: Whole
    due: Whole
    node_class: Whole
    forward: Whole
    backward: Whole
    update: Whole
    all_reduce: Whole
    hop: Whole
    held: Whole
    resident: Whole
    capacity: Whole
    prices: dict[str, int]
    levels: tuple[tuple[str, ...], ...]
    digits: Digits

    @property
    def tasks(self) -> int:
        return len(self.kind)

    @property
    def on_grid(self) -> bool:
        """Whether every time but the origin is a whole number of ticks."""
        due = self.due[(self.kind == 0) & (self.due != NEVER_LATE)]
        times = (self.forward, self.backward, self.update + self.all_reduce, self.hop, due)
        release = self.release - self.release.min()
        return all((a % self.digits.ticks == 0).all() for a in (*times, release))

    @property
    def origin_on_grid(self) -> bool:
        """Whether the first release is a whole number of ticks as well."""
        first = self.digits.origin_s + int(self.release.min()) * self.digits.unit_s
        return (first / (self.digits.ticks * self.digits.unit_s)).denominator == 1

    def without_last(self) -> Drawn:
        """Leave out the last task."""
        columns = {name: getattr(self, name)[:-1] for name in ("kind", "release", "weight", "due")}
        for name in ("forward", "backward", "hop", "held"):
            columns[name] = getattr(self, name)[:, :-1]
        return replace(self, **columns)


def draw(seed: int) -> tuple[Drawn, tuple[Fraction, ...]]:
    """Draw a problem that is searched soon; return it with the optimum by level in seconds."""
    drawn = problem(seed)
    while True:
        cost, _ = least_cost(tables(drawn), MOST_STARTS)
        if cost is not None:
            return drawn, values_s(drawn, cost)
        drawn = drawn.without_last()


def problem(seed: int) -> Drawn:
    """Draw a problem, however long its search may take."""
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(KINDS, p=[0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]))
    nodes, stages, tasks = rng.integers(1, 3), rng.integers(1, 3), rng.integers(1, 6)
    trained = rng.choice([0.0, 0.3, 0.5, 0.7, 1.0])
    if kind == "long":
        stages, tasks = 3, rng.integers(1, 5)
    elif kind == "flow":
        nodes, stages, tasks, trained = 1, rng.integers(2, 4), rng.integers(3, 6), 0.0
    elif kind == "placement":
        nodes, stages, tasks, trained = 2, 1, rng.integers(3, 6), 0.0
    elif kind == "training":
        tasks, trained = rng.integers(2, 5), 1.0
    train = (rng.random(tasks) < trained).astype(np.int64)
    node_class = rng.integers(0, 2, nodes) if rng.random() < 0.5 else np.zeros(nodes, np.int64)
    classes = int(node_class.max()) + 1
    ticks = 2 if rng.random() < 0.2 else 1
    even = ticks if rng.random() < 0.3 else 1
    longest = int(rng.choice([3, 5, 9], p=[0.5, 0.4, 0.1]))

    def times(low: int, high: int, *shape: int) -> Whole:
        return np.asarray(rng.integers(low, high + 1, shape) * even, dtype=np.int64)

    forward = times(1, longest, classes, tasks, stages)
    backward = times(0 if kind == "instant" else 1, longest, classes, tasks, stages)
    if kind == "instant":
        backward *= rng.integers(0, 2, backward.shape)
    update, all_reduce, hop = (
        times(0, 2, *shape) * int(rng.random() < share)
        for shape, share in (
            ((classes, stages), 0.5),
            ((classes, stages), 0.2),
            ((classes, tasks, stages - 1), 0.4),
        )
    )
    release = np.sort(times(0, int(rng.choice([0, 4, 12])), tasks))
    due = np.where(rng.random(tasks) < 0.8, times(1, 16, tasks), NEVER_LATE)
    held, resident, capacity = _memory(rng, kind, node_class, tasks, stages)
    prices, levels = _objective(rng, kind)
    return Drawn(
        seed,
        str(rng.choice(list(MODES))),
        bool(rng.random() < (0.8 if kind == "flow" else 0.35)),
        train,
        release,
        rng.choice([1, 1, 1, 2, 3, 5, 0], tasks),
        due,
        node_class,
        forward,
        backward,
        update,
        all_reduce,
        hop,
        held,
        resident,
        capacity,
        prices,
        levels,
        _digits(rng, ticks),
    )


def _memory(
    rng: np.random.Generator, kind: str, node_class: Whole, tasks: int, stages: int
) -> tuple[Whole, Whole, Whole]:
    """Draw what tasks hold, what is resident and what GPUs have, so that every task fits."""
    classes, nodes = int(node_class.max()) + 1, len(node_class)
    most = int(rng.choice([3, 6, 13])) if kind == "crowded" or rng.random() < 0.6 else 0
    held = rng.integers(0, most + 1, (classes, tasks, stages))
    resident = rng.integers(0, 3, (classes, stages))
    room = rng.integers(max(1, most - 1), 2 * most + 2, (nodes, stages))
    unlike = rng.random() < 0.5
    for task in range(tasks):
        # Of nodes with unlike memory one may be too small for some tasks.
        home = int(rng.integers(0, nodes))
        for n in range(nodes):
            if n == home or not unlike:
                room[n] = np.maximum(room[n], held[node_class[n], task])
    return held, resident, room + resident[node_class]


def _objective(
    rng: np.random.Generator, kind: str
) -> tuple[dict[str, int], tuple[tuple[str, ...], ...]]:
    count = int(rng.choice([1, 2, 3, 4, 6], p=[0.4, 0.2, 0.25, 0.1, 0.05]))
    names = [str(name) for name in rng.permutation(np.array(TERMS))[:count]]
    if kind in ("flow", "placement") and rng.random() < 0.5:
        names = ["makespan"]
    prices = {
        name: int(rng.choice([1, 10, 100] if name == "late" else [1, 1, 2, 3, 10]))
        for name in names
    }
    if len(names) in (2, 3) and rng.random() < 0.6:
        return prices, tuple((name,) for name in names)
    return prices, (tuple(names),)


def _digits(rng: np.random.Generator, ticks: int) -> Digits:
    unit = Fraction(str(rng.choice(["1e-3", "1e-3", "2.5e-4", "1e-4", "1e-6", "1/30", "1"])))
    origins = ["0", "0", "0.0004", "3600.000002", "600000.0004", "random"]
    origin = str(rng.choice(origins))
    if origin == "random":
        # Spaces between floats stay below 1e-9 s.
        origin = f"{int(rng.integers(0, 8 * 10**12))}e-6"
    if unit == Fraction(1, 30):
        # Decimals cannot say such times, so that their noise grows with the origin.
        origin = origin if origin in ("0", "0.0004", "3600.000002") else "0"
    unit_bytes = Fraction(str(rng.choice(["1048576", "524288", "1", "333333333", "1000000000/3"])))
    spare = int(unit_bytes) // 16 if rng.random() < 0.3 else 0
    return Digits(
        Fraction(origin),
        unit,
        ticks,
        unit_bytes,
        spare,
        0.5 if rng.random() < 0.1 else 1.0,
        Fraction(str(rng.choice(["1", "1", "1/4", "1/10", "3"]))),
        Fraction(str(rng.choice(["1", "1", "1/4", "1/10"]))),
    )


def _floats(numbers: Whole, unit: Fraction, origin: Fraction = Fraction(0)) -> np.ndarray:
    """Round once what is exact."""
    exact = [float(origin + int(n) * unit) for n in numbers.reshape(-1)]
    return np.array(exact, dtype=np.float64).reshape(numbers.shape)


def instance_of(drawn: Drawn) -> Instance:
    """Return the problem in seconds and bytes."""
    d, rng = drawn.digits, np.random.default_rng(drawn.seed)
    unit = d.unit_s
    stages = drawn.capacity.shape[1]
    less = rng.integers(0, d.spare_bytes + 1, drawn.held.shape) * (drawn.held > 0)
    more = rng.integers(0, d.spare_bytes + 1, drawn.capacity.shape)
    held = _floats(drawn.held, d.unit_bytes) - less
    # A third of a byte lost in capacity − resident would be a task that does not fit.
    resident = drawn.resident * (d.unit_bytes.denominator == 1)
    lost = (drawn.resident - resident)[drawn.node_class]
    capacity = _floats(drawn.capacity - lost, d.unit_bytes) + more
    due = np.where(drawn.due == NEVER_LATE, np.inf, _floats(drawn.due, unit))
    return Instance(
        Cluster(len(drawn.node_class), stages, capacity / d.fraction, drawn.node_class),
        Workload(
            drawn.kind,
            _floats(drawn.release, unit, d.origin_s),
            1,
            32 + np.arange(drawn.tasks),
            weight=_floats(drawn.weight, d.weight),
            slo_s=due,
        ),
        Costs(
            _floats(drawn.forward, unit),
            _floats(drawn.backward, unit),
            held,
            _floats(resident, d.unit_bytes),
            _floats(drawn.update, unit),
            _floats(drawn.hop, unit),
            _floats(drawn.all_reduce, unit),
        ),
        release_mode=drawn.mode,
        fifo=drawn.fifo,
        tick_s=float(unit * d.ticks),
        memory_fraction=d.fraction,
    )


def objective_of(drawn: Drawn) -> Objective:
    """Return the objective in seconds; being late costs so many units of time."""
    price = {name: float(n * drawn.digits.price) for name, n in drawn.prices.items()}
    if "late" in price:
        late = drawn.prices["late"] * drawn.digits.price * drawn.digits.unit_s
        price["late_penalty_s"] = float(late)
        del price["late"]
    order = tuple(name for level in drawn.levels for name in level)
    return Objective(**price, lexicographic=order if len(drawn.levels) > 1 else ())


def _scales(drawn: Drawn) -> tuple[int, ...]:
    """Return what one unit of every level weighs: more than all levels behind it can cost."""
    work = drawn.forward.max(0).sum() + drawn.backward.max(0).sum() + 2 * drawn.hop.max(0).sum()
    work += (drawn.update + drawn.all_reduce).max(0).sum() * drawn.tasks
    end = int(drawn.release.max() + work)
    tasks = int(drawn.weight.sum()) * drawn.digits.weight.numerator
    whole, (nodes, stages) = drawn.digits.weight.denominator, drawn.capacity.shape
    most = {
        "makespan": end * whole,
        "inference_response": end * tasks,
        "training_response": end * tasks,
        "late": tasks,
        "idle": end * nodes * stages * whole,
        "node_time": end * nodes * whole,
    }
    scales = [1]
    for names in reversed(drawn.levels):
        scales.append(scales[-1] * (1 + sum(drawn.prices[name] * most[name] for name in names)))
    assert scales[-1] < 2**62
    return tuple(reversed(scales[:-1]))


def tables(drawn: Drawn) -> Tables:
    """Return the problem for `exhaustive`; one level is worth more than all behind it."""
    kind, price = drawn.node_class, dict.fromkeys(TERMS, 0)
    for names, scale in zip(drawn.levels, _scales(drawn), strict=True):
        price |= {name: drawn.prices[name] * scale for name in names}
    # Weights of tasks and of terms without a task in the same units.
    per_task, rest = drawn.weight * drawn.digits.weight.numerator, drawn.digits.weight.denominator
    response = np.where(drawn.kind == 0, price["inference_response"], price["training_response"])
    limited = (drawn.kind == 0) & (drawn.due != NEVER_LATE)
    room = drawn.capacity - drawn.resident[kind]
    hop = drawn.hop if drawn.hop.shape[2] else np.zeros((*drawn.hop.shape[:2], 1), np.int64)
    like: dict[tuple[int, ...], int] = {}
    alike = [like.setdefault((int(kind[n]), *r), n) for n, r in enumerate(room.tolist())]
    return Tables(
        drawn.forward[kind],
        drawn.backward[kind],
        (drawn.update + drawn.all_reduce)[kind],
        hop[kind],
        drawn.held[kind],
        room,
        drawn.release,
        drawn.kind,
        np.where(limited, drawn.release + drawn.due, 2**50),
        np.array(alike),
        MODES[drawn.mode],
        int(drawn.fifo),
        response * per_task,
        np.where(limited, price["late"] * per_task, 0),
        price["makespan"] * rest,
        price["node_time"] * rest,
        price["idle"] * rest,
    )


def values_s(drawn: Drawn, cost: int) -> tuple[Fraction, ...]:
    """Return a cost of `tables` by level in seconds, releases and origin accounted for."""
    p, d = tables(drawn), drawn.digits
    cost -= int(p.done @ p.release)
    found = []
    for names, scale in zip(drawn.levels, _scales(drawn), strict=True):
        level, cost = divmod(cost, scale)
        value = level * d.price * d.unit_s / d.weight.denominator
        if "makespan" in names:
            value += drawn.prices["makespan"] * d.price * d.origin_s
        found.append(value)
    return tuple(found)
