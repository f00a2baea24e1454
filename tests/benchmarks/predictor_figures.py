"""Prints the errors and coverages that docs/predictors.md quotes, from the measured tables.

Run as ``LEMIX_DATA=... python tests/benchmarks/predictor_figures.py [profile …]``.
"""

from __future__ import annotations

import sys

import numpy as np

from experiments.operation_profiles import OperationProfile, read_operations
from predictors.errors_by_split import grouped_fifths, held_out_errors
from predictors.operation_model import OperationTimeModel
from predictors.operations import column, tokens

LIMITS = {
    "muxserve-prefill": {"length > 128": 128, "tokens > 8192": 8192},
    "muxserve-decode": {"length > 128": 128},
    "splitwise-prefill": {"length > 1024": 1024},
    "mpt-step": {"length > 4096": 4096},
    "vtrain-iteration": {"pipeline > 2": 2, "hidden > 1024": 1024},
    "sailor-layer": {},
    "aceso-layer": {"rows > 4": 4},
    "vllm-chunk": {"length > 512": 512, "context > 2048": 2048},
    "vllm-decode": {"rows > 32": 32, "length > 2048": 2048},
}


def splits(profile: OperationProfile) -> dict[str, list[np.ndarray]]:
    # One Megatron model of many sizes is one group, as the data's documentation has it.
    groups = profile.groups
    if profile.name == "vtrain-iteration":
        groups = np.full(len(profile.seconds), "all")
    found = {"random fifth": grouped_fifths(profile.X, groups)}
    for name, limit in LIMITS[profile.name].items():
        what = name.split(" ")[0]
        values = tokens(profile.X) if what == "tokens" else column(profile.X, what)
        found[name] = [values <= limit]
    return found


def main() -> None:
    for name in sys.argv[1:] or LIMITS:
        profile = read_operations(name)
        for error in held_out_errors(
            OperationTimeModel(), profile.X, profile.seconds, splits(profile), coverage=0.9
        ):
            print(
                f"{name}, {error.split}: {error.mape_pct:.2f} %, "
                f"{error.covered_pct:.1f} % in 90 % intervals, {error.held_out} rows held out",
                flush=True,
            )


if __name__ == "__main__":
    main()
