"""What a model of some tasks leaves as it is: the rest of a schedule, in ticks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from solvers.exact.readout import Key

Gpu = tuple[int, int]
Span = tuple[int, int]


@dataclass(frozen=True)
class Rest:
    """Work beside the tasks of a model, and what these keep of a schedule themselves.

    Parameters
    ----------
    busy : mapping of (node, stage) to sequence of (int, int)
        Spans in which a GPU is taken.
    held : mapping of (node, stage) to sequence of (int, int, int)
        Begin, end and MiB of memory that is taken.
    latest : mapping of int to int
        Tick by which the closed loop's event of a training task has to be over.
    span : mapping of int to (int, int)
        First start and last end on a node.
    forwards : mapping of int to sequence of sequence of (int, int)
        Per node and task the spans of the forwards, by stage, whose order FIFO keeps.
    node : mapping of int to int
        Node of the model's tasks that stay where they are.
    order : sequence of (key, key)
        Operations of the model of which the first one is over when the second one starts.
    """

    busy: Mapping[Gpu, Sequence[Span]] = field(default_factory=dict)
    held: Mapping[Gpu, Sequence[tuple[int, int, int]]] = field(default_factory=dict)
    latest: Mapping[int, int] = field(default_factory=dict)
    span: Mapping[int, Span] = field(default_factory=dict)
    forwards: Mapping[int, Sequence[Sequence[Span]]] = field(default_factory=dict)
    node: Mapping[int, int] = field(default_factory=dict)
    order: Sequence[tuple[Key, Key]] = ()


NOTHING = Rest()
