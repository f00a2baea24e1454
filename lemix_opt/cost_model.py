"""What a replay asks of a predictor: costs of the tasks of an instance."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

from lemix_opt.costs import Costs
from lemix_opt.instance import Instance

_SECONDS = ("forward_s", "backward_s", "update_s", "hop_s", "all_reduce_s", "iteration")
_BYTES = ("held_bytes", "resident_bytes")


@runtime_checkable
class CostModel(Protocol):
    """Anything that predicts the costs of tasks."""

    def costs(self, instance: Instance) -> Costs:
        """Return predicted seconds and bytes of every task, of the shapes of `instance.costs`."""
        ...


def mixed_costs(
    instance: Instance, actual: Costs, time_model: CostModel | None, memory_model: CostModel | None
) -> Costs:
    """Return actual costs with seconds and bytes out of models, where they are given."""
    for model, names in ((time_model, _SECONDS), (memory_model, _BYTES)):
        if model is not None:
            told = model.costs(instance)
            actual = replace(actual, **{name: getattr(told, name) for name in names})
    return actual
