"""The clock of `time.perf_counter`, read in compiled code without Python's lock."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from lemix_opt.engine.books import Rules
from lemix_opt.engine.jit import inlined
from lemix_opt.engine.view import View

DECISIONS, DECIDE_NS = 7, 8
"""Entries of the kernel's ``talk`` that count measured decisions and their nanoseconds."""

_PUBLIC = "PyTime_PerfCounterRaw"
_BEFORE_3_13 = "_PyTime_GetPerfCounter"
_INT64 = ir.IntType(64)


def _read(typing_context: Any) -> Any:
    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not hasattr(ctypes.pythonapi, _PUBLIC):
            read = ir.FunctionType(_INT64, [])
            clock = cgutils.get_or_insert_function(builder.module, read, _BEFORE_3_13)
            return builder.call(clock, [])
        into = ir.FunctionType(ir.IntType(32), [_INT64.as_pointer()])
        clock = cgutils.get_or_insert_function(builder.module, into, _PUBLIC)
        room = cgutils.alloca_once(builder, _INT64)
        builder.call(clock, [room])
        return builder.load(room)

    return types.int64(), lower


now_ns: Callable[[], int] = time.perf_counter_ns if config.DISABLE_JIT else intrinsic(_read)
"""Nanoseconds of a clock that only differences mean something of."""


@inlined
def answer_of(
    decide: Any, now_s: float, task: int, shown: View, state: Any, rules: Rules, talk: Any
) -> int:
    """Return a policy's answer; where the rules say so, add what it took to ``talk``."""
    if not rules.clocked:
        return int(decide(now_s, task, shown, state))
    begin_ns = now_ns()
    answer = decide(now_s, task, shown, state)
    talk[DECIDE_NS] += now_ns() - begin_ns
    talk[DECISIONS] += 1
    return int(answer)
