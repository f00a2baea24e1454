"""Names of all time models."""

from __future__ import annotations

from typing import Any

from lemix_opt.registry import Registry

PREDICTORS: Registry[Any] = Registry(
    "predictor",
    "lemix_opt.predictors",
    {
        "analytic": "predictors.time_models:AnalyticTimeModel",
        "boosted": "predictors.time_models:BoostedTimeModel",
        "reference": "predictors.time_models:ReferenceTimeModel",
    },
)
