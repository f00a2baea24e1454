"""Execution: what happens when a policy's placements meet the actual costs."""

from lemix_opt.engine.compiled import CompiledPolicy
from lemix_opt.engine.run import simulate

__all__ = ["CompiledPolicy", "simulate"]
