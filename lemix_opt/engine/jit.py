"""Compilation: numba with a cache that no edit or upgrade of this toolkit can leave stale."""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from llvmlite import ir
from numba.core import cgutils, config
from numba.extending import intrinsic
from platformdirs import user_cache_path

CACHE_FOLDER_VARIABLE = "LEMIX_CACHE"
ENGINE = Path(__file__).resolve().parent

LOG = logging.getLogger("lemix_opt")
F = TypeVar("F", bound=Callable[..., Any])
# Nothing is allocated in compiled code, so that nothing needs counting; see `compiled`. It touches
# no Python objects either, so that threads run beside it.
OPTIONS = {"_nrt": False, "error_model": "numpy", "nogil": True}


def inlined(function: F) -> F:
    """Mark a helper: compiled into the function that calls it, never at import."""
    if config.DISABLE_JIT:
        return function
    helper: F = numba.njit(forceinline=True, **OPTIONS)(function)
    return helper


def _assume_index(typing_context: Any, number: Any) -> Any:
    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        assume = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [ir.IntType(1)]), "llvm.assume"
        )
        zero = context.get_constant(number, 0)
        builder.call(assume, [builder.icmp_signed(">=", arguments[0], zero)])
        return arguments[0]

    return number(number), lower


def _index(number: int) -> int:
    return int(number)


# A promise that an index is not negative, so that none is looked for from an array's end.
index: Callable[[int], int] = _index if config.DISABLE_JIT else intrinsic(_assume_index)


def _sources(function: Callable[..., Any]) -> list[Path]:
    """Return the files whose text decides what the compiled function does."""
    own = Path(inspect.getsourcefile(function) or ENGINE).resolve()
    folders = {ENGINE, own.parent} if own.is_file() else {ENGINE}
    return sorted(file for folder in folders for file in folder.glob("*.py"))


@lru_cache(maxsize=64)
def _digest(files: tuple[Path, ...]) -> str:
    text = hashlib.sha256(numba.__version__.encode())
    for file in files:
        text.update(file.name.encode())
        text.update(file.read_bytes())
    return text.hexdigest()[:24]


def cache_folder(function: Callable[..., Any]) -> Path:
    """Return where the machine code of a function is kept: one folder per state of its sources.

    numba itself looks at the time stamp of the function's own file only, which does not change
    when a helper in another file does, nor between wheels with normalised time stamps.
    """
    base = os.environ.get(CACHE_FOLDER_VARIABLE)
    root = Path(base) if base else user_cache_path("lemix-opt", appauthor=False)
    return root / "compiled" / _digest(tuple(_sources(function)))


def compiled(function: Callable[..., Any], *signature: Any) -> Any:
    """Compile a function for one signature, from the cache where possible.

    Parameters
    ----------
    function : callable
        Plain Python within numba's subset. It may not allocate arrays, and the caller keeps every
        array it is given alive: references are not counted, which makes it twenty times as fast.
        With ``NUMBA_DISABLE_JIT=1`` it is returned as it is, for debugging.
    *signature : numba types
        Argument types, or a whole signature.

    Returns
    -------
    Dispatcher
        It accepts this signature and no other. Without a writable cache folder it works as well,
        but every process compiles anew.
    """
    if config.DISABLE_JIT:
        return function
    folder = cache_folder(function)
    before = config.CACHE_DIR
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.rglob("*.nbi")):
            LOG.warning("compiling for this machine, once after an installation (up to a minute)")
        config.CACHE_DIR = str(folder)
        found = numba.njit(cache=True, **OPTIONS)(function)
    except (OSError, RuntimeError):
        found = numba.njit(**OPTIONS)(function)
    finally:
        config.CACHE_DIR = before
    found.compile(signature[0] if len(signature) == 1 else signature)
    found.disable_compile()
    return found


compiled_once = lru_cache(maxsize=256)(compiled)
"""`compiled`, which a process asks for a function and a signature once."""


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, compiled for the types of its arguments."""
    return compiled_once(function, *map(numba.typeof, arguments))(*arguments)
