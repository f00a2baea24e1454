"""Generators, dataset registry, readers and writers."""

from instances.files import read, write

__all__ = ["read", "write"]
