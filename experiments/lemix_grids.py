"""What the LeMix studies compare: variants of policies, and the conditions they run under."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from experiments.conditions import Condition
from lemix_opt.errors import unknown

BASE = "mix-rr"
"""Label of the variant that the others are compared with, in pairs."""
DEFAULT = "lemix"
RATES, SHARES, FORWARDS_S = (
    (4.0, 8.0, 16.0, 24.0, 32.0),
    (0.1, 0.3, 0.5, 0.7, 0.9),
    (0.05, 0.2, 0.7),
)
NOISE = 0.2
ROOM = 3.0
WEIGHTS = (0.01, 0.05, 0.1, 0.15, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Variant:
    """A policy as it is compared.

    Parameters
    ----------
    label : str
        Name in the tables.
    policy : str
        Name in the registry.
    parameters : dict, default none
        Its parameters.
    rules : dict, default none
        Fields of the instance that differ from those of the condition.
    """

    label: str
    policy: str
    parameters: dict[str, Any] = field(default_factory=dict)
    rules: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """Conditions without seed, and the variants that all of them are run with."""

    cells: tuple[Condition, ...]
    variants: tuple[Variant, ...]


def _cells(
    rates: tuple[float, ...],
    shares: tuple[float, ...],
    forwards_s: tuple[float, ...],
    **fixed: Any,
) -> tuple[Condition, ...]:
    return tuple(
        Condition(rate, share, forward, 0, **fixed)
        for forward, share, rate in itertools.product(forwards_s, shares, rates)
    )


def _plain(*names: str) -> tuple[Variant, ...]:
    return tuple(Variant(name, name) for name in names)


READINGS = (
    *_plain(BASE, DEFAULT),
    Variant("inverse idleness", "lemix", {"reading": "inverse_idleness"}),
    Variant("subtraction", "lemix", {"reading": "subtraction"}),
    Variant("as published", "lemix-reference"),
    *_plain("jsq", "shortest-response", "budget", "separate"),
)
ABLATIONS = (
    *_plain(BASE, DEFAULT),
    Variant("lemix, no profile", "unprofiled", {"policy": "lemix"}),
    Variant("lemix, no prioritisation", "lemix", {"prioritization": False}),
    Variant("as published", "lemix-reference"),
    Variant("as published, no profile", "lemix-reference", {"profile": False}),
    Variant("as published, no prioritisation", "lemix-reference", {"prioritization": False}),
)
UNCHECKED = {"memory_fraction": 1.0}
"""Under the published threshold: an operation starts whatever is in use, and may run out of it."""
ABLATIONS_OF_MEMORY = (
    *_plain(BASE, DEFAULT),
    Variant("mix-rr, no memory check", BASE, rules=UNCHECKED),
    Variant("lemix, no memory check", DEFAULT, rules=UNCHECKED),
    Variant("as published", "lemix-reference"),
    Variant("as published, no memory check", "lemix-reference", rules=UNCHECKED),
)


def _sensitivity() -> tuple[Variant, ...]:
    scored: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("inverse idleness", "lemix", {"reading": "inverse_idleness"}),
        ("subtraction", "lemix", {"reading": "subtraction"}),
        ("as published", "lemix-reference", {}),
    )
    return (
        *_plain(BASE),
        *(
            Variant(f"{label}, {name} {value:g}", policy, {**fixed, name: value})
            for label, policy, fixed in scored
            for name in ("alpha", "beta", "epsilon")
            for value in WEIGHTS
        ),
        *(
            Variant(f"lemix, {name} {value:g}", "lemix", {name: value})
            for name, values in (
                ("slack", (0.3, 0.5, 0.7, 1.0)),
                ("target", (0.3, 0.5, 0.7, 0.9)),
                ("memory_units", (30.0, 100.0, 300.0)),
            )
            for value in values
        ),
    )


STUDIES = {
    "readings": (
        Grid(_cells(RATES, SHARES, FORWARDS_S), READINGS),
        Grid(_cells((4.0, 16.0, 32.0), (0.1, 0.5, 0.9), FORWARDS_S, noise=NOISE), READINGS),
    ),
    "ablations": (
        Grid(_cells(RATES, (0.5,), (0.2, 0.7), noise=NOISE), ABLATIONS),
        Grid(_cells(RATES, (0.5,), (0.2, 0.7), noise=NOISE, room=ROOM), ABLATIONS_OF_MEMORY),
    ),
    "sensitivity": (Grid(_cells((10.0, 20.0, 30.0), (0.5,), (0.2,)), _sensitivity()),),
}


def grids(study: str) -> tuple[Grid, ...]:
    """Return the grids of a study; an unknown name raises `UnknownNameError`."""
    if study not in STUDIES:
        raise unknown("study", study, STUDIES)
    return STUDIES[study]
