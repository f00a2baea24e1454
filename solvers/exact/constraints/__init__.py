"""Constraints of the exact model, one idea per file."""
