"""Generators, dataset registry, readers and writers."""

from instances.datasets import load
from instances.files import read, write
from instances.generate import generate, stretch

__all__ = ["generate", "load", "read", "stretch", "write"]
