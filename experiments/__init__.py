"""Studies, comparison, plots and the lemix command."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.comparison import Comparison, compare
    from experiments.gantt import plot_gantt
    from experiments.study import Study
    from experiments.windows import ExactSettings

# The command must start fast, so that names load where they are used.
_PLACES = {
    "Comparison": "comparison",
    "ExactSettings": "windows",
    "Study": "study",
    "compare": "comparison",
    "plot_gantt": "gantt",
}

__all__ = ["Comparison", "ExactSettings", "Study", "compare", "plot_gantt"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"experiments.{_PLACES[name]}"), name)
