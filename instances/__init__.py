"""Generators, dataset registry, readers and writers."""

from instances.datasets import load
from instances.generate import generate, stretch
from instances.instance_files import read, write

__all__ = ["generate", "load", "read", "stretch", "write"]
