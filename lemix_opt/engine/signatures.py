"""Signatures of a compiled policy's two functions, which the kernel calls through pointers."""

from __future__ import annotations

from numba import types

from lemix_opt.engine.books import STATE_T
from lemix_opt.engine.view import VIEW_T

DECIDE_T = types.int64(types.float64, types.int64, VIEW_T, STATE_T)
"""``decide(now_s, task, view, state)``: a node, or a code of `lemix_opt.engine.codes`."""
OBSERVE_T = types.int64(
    types.int64,
    types.float64,
    types.int64,
    types.int64,
    types.int64,
    types.int64,
    types.float64,
    VIEW_T,
    STATE_T,
)
"""``observe(kind, time_s, task, node, phase, stage, memory_bytes, view, state)``."""
