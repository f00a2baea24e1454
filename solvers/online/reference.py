"""`lemix-reference`: the scoring of the published LeMix code, quirks included.

The rules are those of the published repository (pejoule/LeMix, a87f280), read as scoring, commit
and run-time overwriting. Three variants differ in what scoring leaves behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lemix_opt.checks import choice, floats
from lemix_opt.engine.codes import BATCH, EVENTS
from lemix_opt.instance import Instance
from lemix_opt.policy import Assign, BatchObserved, Defer, Event
from lemix_opt.schedule import BACKWARD, FORWARD
from solvers.online.length_statistics import LengthStatistics
from solvers.online.unprofiled import BACKWARD_ETA, FORWARD_ETA, FirstDurations

VARIANTS = ("as_is", "dealiased", "pure")
RULES = ("prefill", "generate")


class Cell:
    """Predicted begin and end of forward and backward on one stage, in seconds."""

    __slots__ = ("bb", "be", "fb", "fe")

    def __init__(self, fb: float = 0.0, fe: float = 0.0, bb: float = 0.0, be: float = 0.0) -> None:
        self.fb, self.fe, self.bb, self.be = fb, fe, bb, be

    def copy(self) -> Cell:
        """Return a cell of its own with the same times."""
        return Cell(self.fb, self.fe, self.bb, self.be)


@dataclass
class NodeBook:
    """What the published code keeps for one node.

    Parameters
    ----------
    cells : list of Cell
        Scratch record of scoring, one cell per stage; under ``as_is`` every record of the node.
    history, training : dict of int to list of Cell
        Records of placed tasks and of open training tasks, in order of placement.
    """

    cells: list[Cell]
    history: dict[int, list[Cell]] = field(default_factory=dict)
    training: dict[int, list[Cell]] = field(default_factory=dict)
    lengths: LengthStatistics = field(default_factory=LengthStatistics)
    batch: tuple[int, ...] = ()

    def pop(self, tasks: list[int]) -> None:
        """Drop training tasks that the new task waits out."""
        for task in tasks:
            self.training.pop(task, None)
            self.history.pop(task, None)


@dataclass
class Round:
    """One scoring of one task: every list runs over nodes; times in seconds, LC in 1/token."""

    task: int
    release_s: float
    score: list[float] = field(default_factory=list)
    rt: list[float] = field(default_factory=list)
    idleness: list[float] = field(default_factory=list)
    gap: list[float] = field(default_factory=list)
    consistency: list[float] = field(default_factory=list)
    popped: list[list[int]] = field(default_factory=list)
    deprioritised: bool = False

    @property
    def argmax(self) -> int:
        """First node of the highest score."""
        return self.score.index(max(self.score))


@dataclass
class ReferenceState:
    """Books of all nodes, release times used so far, and the last scoring round."""

    instance: Instance
    books: list[NodeBook]
    forward_eta: float
    backward_eta: float
    slo_s: float
    releases: dict[int, float]
    inference_left: int
    training: list[bool]
    tokens: list[int]
    rows: list[int]
    learned: FirstDurations | None = None
    turned_away: set[int] = field(default_factory=set)
    last: Round | None = None


@dataclass(frozen=True)
class LemixReference:
    """The published policy.

    Parameters
    ----------
    variant : {"as_is", "dealiased", "pure"}, default "as_is"
        ``as_is``: all records of a node share their cells. ``dealiased``: records are copies, but
        scoring still pops training tasks on every node. ``pure``: pops are kept only on the node
        the task is placed on.
    alpha, beta, epsilon : float, default 0.15, 0.05, 0.2
        Weights of the score; epsilon in seconds.
    forward_eta, backward_eta : float, optional
        Seconds per row and squared token. Fitted to the predicted costs of node class 0 when
        omitted: the mean over tasks of the last stage's forward, and of the mean stage backward.
    profile : bool, default True
        False starts without a profile, as in the paper's ablation: coefficients that are not
        given begin at 2e-6 and 1e-6, and the first forward and the first backward that end set
        them, once.
    prioritization : bool, default True
        Whether training whose predicted response exceeds 5 SLO units is turned away.
    slo_threshold_s : float, optional
        SLO unit in seconds; that of the instance when omitted.
    retry_gap_s : float, default 0.01
        Seconds until a task that was turned away is released again. The one after it is tried
        meanwhile, later training waits behind both.
    rule : {"prefill", "generate"}, default "prefill"
        Whether the running batch of a node counts in the score.

    Notes
    -----
    The published score does not look at memory. Alone among the policies here it places tasks on
    nodes that can never hold them; these are dropped there (`Schedule.out_of_memory`). Where GPUs
    have equal memory there are no such nodes.
    """

    variant: str = "as_is"
    alpha: float = 0.15
    beta: float = 0.05
    epsilon: float = 0.2
    forward_eta: float | None = None
    backward_eta: float | None = None
    profile: bool = True
    prioritization: bool = True
    slo_threshold_s: float | None = None
    retry_gap_s: float = 0.01
    rule: str = "prefill"

    @property
    def observes(self) -> tuple[str, ...]:
        """Events it is told; the running batches where they count in the score."""
        return (*EVENTS, BATCH) if self.rule == "generate" else EVENTS

    def __post_init__(self) -> None:
        choice("variant", self.variant, VARIANTS)
        choice("rule", self.rule, RULES)
        floats("alpha", self.alpha, (), above=0)
        floats("beta", self.beta, (), minimum=0)
        floats("epsilon", self.epsilon, (), above=0)

    def start(self, instance: Instance, rng: np.random.Generator) -> ReferenceState:
        """Open empty books and fit what was not given."""
        forward, backward = self._coefficients(instance)
        learned = None if self.profile else FirstDurations(instance, forward, backward)
        work = instance.workload
        unit = instance.slo_unit_s if self.slo_threshold_s is None else self.slo_threshold_s
        stages = range(instance.cluster.stages)
        return ReferenceState(
            instance,
            [NodeBook([Cell() for _ in stages]) for _ in range(instance.cluster.nodes)],
            forward,
            backward,
            float("nan") if unit is None else unit,
            {},
            int(work.is_inference.sum()),
            work.is_training.tolist(),
            work.prompt_tokens.tolist(),
            work.batch.tolist(),
            learned,
        )

    def _coefficients(self, instance: Instance) -> tuple[float, float]:
        """Return coefficients of forward and backward: as given, or fitted to predicted costs."""
        work, costs = instance.workload, instance.costs
        size = work.batch * work.prompt_tokens.astype(np.float64) ** 2
        forward, backward = self.forward_eta, self.backward_eta
        if not self.profile:
            forward = FORWARD_ETA if forward is None else forward
            backward = BACKWARD_ETA if backward is None else backward
        if forward is None:
            forward = float(np.mean(costs.forward_s[0, :, -1] / size)) if work.tasks else 0.0
        if backward is None:
            rows = work.is_training
            each = costs.backward_s[0, rows].mean(axis=1) / size[rows]
            backward = float(np.mean(each)) if each.size else 0.0
        return forward, backward

    def revise(self, state: ReferenceState, instance: Instance) -> None:
        """Fit what was not given to costs that have changed since the start."""
        if state.learned is None:
            state.forward_eta, state.backward_eta = self._coefficients(instance)

    def decide(self, state: ReferenceState, now_s: float, task: int) -> Assign | Defer:
        """Score all nodes; place on the best one, or turn training away."""
        state.releases[task] = now_s
        found = state.last = Round(task, now_s)
        for book in state.books:
            self._score(state, book, found)
        training = state.training[task]
        if not training:
            state.inference_left -= 1
        late = found.rt[found.argmax] > 5 * state.slo_s
        if training and self.prioritization and state.inference_left > 0 and late:
            found.deprioritised = True
            # The producer holds one task more than it has released; the others wait behind both.
            other = bool(state.turned_away - {task})
            state.turned_away.add(task)
            return Defer("time", now_s + self.retry_gap_s, keeps_place=other)
        state.turned_away.discard(task)
        return Assign(found.argmax)

    def _score(self, state: ReferenceState, book: NodeBook, found: Round) -> None:
        length, rows = state.tokens[found.task], state.rows[found.task]
        if self.rule == "generate":
            rows = len(book.batch) + 1
            length = max((*book.batch, length))
        forward_s = (state.forward_eta * rows) * (length * length)
        last = next(reversed(book.history), None)
        before = None if last is None else book.history[last]
        gap = 0.0 if last is None else found.release_s - state.releases[last]
        now = found.release_s
        begin = 0
        idleness = 0.0
        popped: list[int] = []
        opened = list(book.training.items())
        for stage, cell in enumerate(book.cells):
            previous_end = now if before is None else before[stage].fe
            # The published code carries the start of the previous stage on, not its end.
            now = max(previous_end, now)
            end = now + forward_s
            offset = 0.0
            k = begin
            for k in range(begin, len(opened)):
                earlier, record = opened[k]
                if end <= record[stage].bb:
                    break
                now = max(now, record[stage].be)
                end = now + forward_s
                if previous_end <= record[stage].bb:
                    tokens = state.tokens[earlier]
                    offset += (state.backward_eta * rows) * (tokens * tokens)
                if stage == 0:
                    popped.append(earlier)
            cell.fb, cell.fe = now, end
            idleness += max(now - previous_end - offset, 0.0)
            begin = k
        if state.training[found.task]:
            backward_s = (state.backward_eta * rows) * (length * length)
            time_s = book.cells[-1].fe
            for cell in reversed(book.cells):
                cell.bb = time_s
                time_s = cell.be = time_s + backward_s
        if self.variant != "pure":
            book.pop(popped)
        rt = book.cells[-1].fe - found.release_s
        profit = -max(idleness / len(book.cells) - gap, self.epsilon)
        consistency = book.lengths.density(length)
        found.score.append((profit + self.beta * consistency) / (self.alpha * rt))
        found.rt.append(rt)
        found.idleness.append(idleness)
        found.gap.append(gap)
        found.consistency.append(consistency)
        found.popped.append(popped)

    def observe(self, state: ReferenceState, event: Event | BatchObserved) -> None:
        """Commit a placement, or overwrite predictions with what happened."""
        book = state.books[event.node]
        if isinstance(event, BatchObserved):
            book.batch = event.prompt_tokens
        elif event.kind == "assign":
            self._commit(state, event.node, event.task)
        elif event.kind in ("start", "end"):
            self._overwrite(book, event)
            if state.learned is not None and state.learned.learn(event):
                state.forward_eta = state.learned.eta[FORWARD]
                state.backward_eta = state.learned.eta[BACKWARD]

    def _commit(self, state: ReferenceState, node: int, task: int) -> None:
        book = state.books[node]
        if self.variant == "pure" and state.last is not None:
            book.pop(state.last.popped[node])
        shared = self.variant == "as_is"
        record = book.cells if shared else [cell.copy() for cell in book.cells]
        book.history[task] = record
        if state.training[task]:
            book.training[task] = record
        book.lengths.add(float(state.tokens[task]))

    def _overwrite(self, book: NodeBook, event: Event) -> None:
        record = book.cells if self.variant == "as_is" else book.history.get(event.task)
        if record is None:
            return
        cell = record[event.stage]
        if event.phase == FORWARD:
            if event.kind == "start":
                cell.fb = event.time_s
            else:
                cell.fe = event.time_s
        elif event.phase == BACKWARD:
            if event.kind == "start" and event.stage == len(record) - 1:
                cell.bb = event.time_s
            elif event.kind == "end" and event.stage == 0:
                cell.be = event.time_s
