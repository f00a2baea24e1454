"""Names of all solvers and online policies."""

from __future__ import annotations

from typing import Any

from lemix_opt.policy import Policy
from lemix_opt.registry import Registry

POLICIES: Registry[Policy] = Registry(
    "policy",
    "lemix_opt.policies",
    {
        "budget": "solvers.online.budget:Budget",
        "edf": "solvers.online.due_date:EarliestDueDate",
        "jsq": "solvers.online.baselines:ShortestQueue",
        "least-work-left": "solvers.online.baselines:LeastWork",
        "lemix": "solvers.online.lemix:Lemix",
        "lemix-reference": "solvers.online.reference:LemixReference",
        "mix-luf": "solvers.online.baselines:LeastUtilised",
        "mix-rr": "solvers.online.baselines:RoundRobin",
        "power-of-two": "solvers.online.baselines:PowerOfTwo",
        "random": "solvers.online.baselines:Random",
        "separate": "solvers.online.baselines:Separate",
        "separate-dynamic": "solvers.online.dynamic_separate:DynamicSeparate",
        "shortest-response": "solvers.online.shortest_response:ShortestResponse",
        "unprofiled": "solvers.online.unprofiled:Unprofiled",
    },
)
SOLVERS: Registry[Any] = Registry(
    "solver",
    "lemix_opt.solvers",
    {
        "anneal": "solvers.search.anneal:Anneal",
        "cpsat": "solvers.exact.cpsat:create",
        "lns": "solvers.lns.solver:Lns",
        "milp": "solvers.milp.solver:Milp",
        "portfolio": "solvers.portfolio:Portfolio",
        "reoptimise": "solvers.reoptimise:Reoptimise",
    },
)
