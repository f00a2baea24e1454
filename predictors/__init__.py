"""Time and memory models, intervals, calibrations, costs for an instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lemix_opt.lazy import later

if TYPE_CHECKING:
    from predictors.calibration import load_calibration
    from predictors.estimate import estimate_costs
    from predictors.hops import HopModel, load_hops
    from predictors.iterations import IterationTimeModel, load_iterations, serving_costs
    from predictors.kernels import KernelCosts, fit_kernels
    from predictors.loss_curve import LossCurve, expected_loss, load_loss_curve
    from predictors.measured import MeasuredTimes
    from predictors.memory_model import MemoryModel
    from predictors.memory_spread import MemorySpread, load_memory_spread
    from predictors.operation_model import OperationTimeModel
    from predictors.operations import operation_rows
    from predictors.saving import load_model, save_model
    from predictors.sharing import load_pair_slowdown, load_share_slowdown, scaled_costs
    from predictors.time_models import (
        AnalyticTimeModel,
        BoostedTimeModel,
        ReferenceTimeModel,
        TimeModel,
    )
    from predictors.trace_costs import TraceCostModel

# scikit-learn takes a second to import, so that names load where they are used.
_PLACES = {
    "AnalyticTimeModel": "time_models",
    "BoostedTimeModel": "time_models",
    "HopModel": "hops",
    "KernelCosts": "kernels",
    "LossCurve": "loss_curve",
    "IterationTimeModel": "iterations",
    "MeasuredTimes": "measured",
    "MemoryModel": "memory_model",
    "MemorySpread": "memory_spread",
    "OperationTimeModel": "operation_model",
    "ReferenceTimeModel": "time_models",
    "TimeModel": "time_models",
    "TraceCostModel": "trace_costs",
    "load_calibration": "calibration",
    "estimate_costs": "estimate",
    "expected_loss": "loss_curve",
    "fit_kernels": "kernels",
    "load_hops": "hops",
    "load_loss_curve": "loss_curve",
    "load_iterations": "iterations",
    "load_memory_spread": "memory_spread",
    "load_model": "saving",
    "load_pair_slowdown": "sharing",
    "load_share_slowdown": "sharing",
    "operation_rows": "operations",
    "save_model": "saving",
    "scaled_costs": "sharing",
    "serving_costs": "iterations",
}

__all__ = [
    "AnalyticTimeModel",
    "BoostedTimeModel",
    "HopModel",
    "IterationTimeModel",
    "KernelCosts",
    "LossCurve",
    "MeasuredTimes",
    "MemoryModel",
    "MemorySpread",
    "OperationTimeModel",
    "ReferenceTimeModel",
    "TimeModel",
    "TraceCostModel",
    "estimate_costs",
    "expected_loss",
    "fit_kernels",
    "load_calibration",
    "load_hops",
    "load_iterations",
    "load_loss_curve",
    "load_memory_spread",
    "load_model",
    "load_pair_slowdown",
    "load_share_slowdown",
    "operation_rows",
    "save_model",
    "scaled_costs",
    "serving_costs",
]

__getattr__ = later(__name__, _PLACES)
