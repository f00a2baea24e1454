"""Generators, dataset registry, readers and writers."""
