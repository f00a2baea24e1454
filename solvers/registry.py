"""Names of all solvers and online policies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lemix_opt.errors import FieldError
from lemix_opt.policy import Policy
from lemix_opt.registry import Registry

AROUND = ":"


class PolicyRegistry(Registry[Policy]):
    """Policies by name; ``outer:inner`` is ``outer`` with its parameter ``policy`` set to inner.

    So ``corrected:jsq`` is `jsq` on corrected costs wherever a name is asked for.
    """

    def __contains__(self, name: object) -> bool:
        parts = str(name).split(AROUND)
        known = self.names()
        return all(part in known for part in parts)

    def factory(self, name: str) -> Callable[..., Policy]:
        """Return the factory called `name`.

        Raises
        ------
        UnknownNameError
            For an unknown name, before or behind the colon.
        FieldError
            If the policy before the colon takes no other.
        """
        outer, around, inner = name.partition(AROUND)
        if not around:
            return super().factory(name)
        self.factory(inner)
        if "policy" not in self.parameters(outer):
            takers = [n for n in self.names() if "policy" in self.parameters(n)]
            raise FieldError(
                f"{outer!r} takes no other policy",
                where=f"policy {name!r}",
                expected=f"one of {', '.join(takers)} before the colon",
            )
        return partial(super().factory(outer), policy=inner)


POLICIES = PolicyRegistry(
    "policy",
    "lemix_opt.policies",
    {
        "budget": "solvers.online.budget:Budget",
        "corrected": "solvers.corrected:Corrected",
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
