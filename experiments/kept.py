"""Policies by name, and "+" variants: rules kept to as many first nodes as LeMix used."""

from __future__ import annotations

from collections.abc import Sequence

from lemix_opt.errors import FieldError, unknown
from lemix_opt.policy import Policy
from solvers.registry import POLICIES

MARK = "+"
COUNTED_FROM = "lemix"
"""The policy whose used nodes are counted."""


def check_names(names: Sequence[str]) -> None:
    """Raise unless every name is a policy, or one that can be kept to the first nodes and a mark.

    Raises
    ------
    UnknownNameError
        For an unknown policy.
    FieldError
        If a marked policy takes no ``nodes``, or `COUNTED_FROM` is not among the names.
    """
    for name in names:
        plain = name.removesuffix(MARK)
        if plain not in POLICIES:
            raise unknown("policy", name, POLICIES.names())
        if plain == name:
            continue
        if "nodes" not in POLICIES.parameters(plain):
            takers = [n for n in POLICIES if "nodes" in POLICIES.parameters(n)]
            raise FieldError(
                f"{plain!r} cannot be kept to the first nodes",
                where=name,
                expected=f"one of {', '.join(takers)} before the {MARK!r}",
            )
        if COUNTED_FROM not in names:
            raise FieldError(
                f"without {COUNTED_FROM!r}",
                where=name,
                expected=f"{COUNTED_FROM!r} among the policies, whose used nodes are counted",
            )


def in_order(names: Sequence[str]) -> list[str]:
    """Return the names with `COUNTED_FROM` first, since marked ones need its count."""
    return sorted(names, key=lambda name: name != COUNTED_FROM)


def create(name: str, nodes_used: int | None) -> Policy:
    """Build a policy; a marked one is kept to the first `nodes_used` nodes."""
    plain = name.removesuffix(MARK)
    return POLICIES.create(plain) if plain == name else POLICIES.create(plain, nodes=nodes_used)
