"""Names of all solvers and online policies."""

from __future__ import annotations

from typing import Any

from lemix_opt.policy import Policy
from lemix_opt.registry import Registry

POLICIES: Registry[Policy] = Registry(
    "policy",
    "lemix_opt.policies",
    {"lemix-reference": "solvers.online.reference:LemixReference"},
)
SOLVERS: Registry[Any] = Registry(
    "solver", "lemix_opt.solvers", {"cpsat": "solvers.exact.cpsat:CpSat"}
)
