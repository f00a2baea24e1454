"""A run to be replayed: tasks, actual costs and, where known, what was executed."""

from __future__ import annotations

from dataclasses import dataclass

from lemix_opt.checks import choice
from lemix_opt.costs import Costs
from lemix_opt.errors import FieldError
from lemix_opt.instance import Instance
from lemix_opt.recording import TRUTHS, Recording
from lemix_opt.schedule import Schedule


@dataclass(frozen=True)
class Trace:
    """An instance with the actual costs of its tasks.

    Parameters
    ----------
    instance : Instance
        Tasks, rules and predicted costs.
    actual : Costs
        What the operations really take, of the same shape as the predicted costs.
    truth : {"recorded", "profile", "synthetic"}
        Where the actual costs come from; only a run that happened is ``recorded``.
    provenance : str
        Source and assumptions behind the actual costs, in words.
    schedule : Schedule, optional
        What was executed, where that is known.
    recording : Recording, optional
        What the clocks said, where the actual costs and the schedule were taken from it.
    """

    instance: Instance
    actual: Costs
    truth: str
    provenance: str
    schedule: Schedule | None = None
    recording: Recording | None = None

    def __post_init__(self) -> None:
        choice("truth", self.truth, TRUTHS)
        predicted = self.instance.costs.forward_s.shape
        if self.actual.forward_s.shape != predicted:
            raise FieldError(
                f"shape {self.actual.forward_s.shape}",
                where="actual.forward_s",
                expected=f"shape {predicted} as predicted",
            )
        if self.recording is not None:
            said = self.recording.provenance
            if (said.truth, said.source) != (self.truth, self.provenance):
                raise FieldError(
                    f"{said.truth}: {said.source[:60]}",
                    where="recording.provenance",
                    expected="truth and source of the trace itself",
                )
