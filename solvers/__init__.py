"""Solvers, bounds and online policies behind one registry."""
