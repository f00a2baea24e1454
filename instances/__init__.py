"""Generators, dataset registry, readers and writers."""

from instances.datasets import load
from instances.files import read, write

__all__ = ["load", "read", "write"]
