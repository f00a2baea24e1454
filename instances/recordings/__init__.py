"""Readers of what programs write while they run."""
