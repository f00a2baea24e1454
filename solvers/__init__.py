"""Solvers, bounds and online policies behind one registry."""

from solvers.front import list_solvers, solve

__all__ = ["list_solvers", "solve"]
