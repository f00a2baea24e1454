"""Execution: what happens when a policy's placements meet the actual costs."""

from lemix_opt.engine.run import simulate

__all__ = ["simulate"]
