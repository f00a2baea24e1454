"""Studies, comparison, plots and the lemix command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lemix_opt.lazy import later

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

__getattr__ = later(__name__, _PLACES)
