"""What of a schedule lies beyond the exact model, so that no bound of it compares."""

from __future__ import annotations

from lemix_opt.errors import UnsupportedError
from lemix_opt.instance import Instance
from lemix_opt.schedule import Schedule

GAVE_WAY = "deferred training tasks give up their place in the closed loop"


def beyond_exact_model(instance: Instance, schedule: Schedule) -> str:
    """Say which rules of an instance and its schedule the exact model does not have; "" for none.

    The exact model releases training tasks in order of their index, whereas an online policy may
    let the next one go ahead while it defers one (`Schedule.gave_way`).
    """
    said = [f"{name} {getattr(instance, name)!r}" for name in instance.beyond_exact_model]
    if schedule.gave_way:
        said.append(GAVE_WAY)
    return "outside the exact model: " + ", ".join(said) if said else ""


def require_loop_order(schedule: Schedule, where: str) -> None:
    """Raise `UnsupportedError` for a schedule that solvers of the exact model cannot start from.

    It may be better than every schedule in the order of the loop, so that a proven bound would lie
    above it.
    """
    if schedule.gave_way:
        task, time_s = schedule.gave_way[0]
        raise UnsupportedError(
            f"{GAVE_WAY}: task {task} at {time_s:g} s",
            where=where,
            expected="training tasks in order of their index, as in the exact model",
        )
