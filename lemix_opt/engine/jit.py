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

from lemix_opt.engine import code_cache

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
    """Name the state of some sources.

    numba itself looks at the time stamp of the function's own file only, which does not change
    when a helper in another file does.
    """
    text = hashlib.sha256(numba.__version__.encode())
    for file in files:
        text.update(file.name.encode())
        text.update(file.read_bytes())
    return text.hexdigest()[:24]


def compiled(function: Callable[..., Any], *signature: Any, checked: bool = False) -> Any:
    """Compile a function for one signature, from the cache where possible.

    Parameters
    ----------
    function : callable
        Plain Python within numba's subset. It may not allocate arrays, and the caller keeps every
        array it is given alive: references are not counted, which makes it twenty times as fast.
        With ``NUMBA_DISABLE_JIT=1`` it is returned as it is, for debugging.
    *signature : numba types
        Argument types, or a whole signature.
    checked : bool, default False
        Whether an index beyond an array raises `IndexError`, as for functions of users. Without it
        such an index reads and writes whatever lies there.

    Returns
    -------
    Dispatcher
        It accepts this signature and no other. Without a cache that can be trusted and written to
        it works as well, but every process compiles anew.
    """
    if config.DISABLE_JIT:
        return function
    wanted = signature[0] if len(signature) == 1 else signature
    options = OPTIONS | {"boundscheck": checked}
    folder = code_cache.private_folder(_digest(tuple(_sources(function))))
    if folder is None:
        found = numba.njit(**options)(function)
        found.compile(wanted)
    else:
        kept = folder / _key(function, wanted, options)
        found = _loaded(function, wanted, options, kept)
        found = found or _stored(function, wanted, options, kept)
    found.disable_compile()
    return found


def _key(function: Callable[..., Any], wanted: Any, options: dict[str, Any]) -> str:
    """Name a function, a signature and how it is compiled.

    numba refuses what was compiled from a file of another time stamp, which is therefore part of
    the name: normalised wheels and editable installations may share a cache.
    """
    source = inspect.getsourcefile(function) or ""
    stamp = os.stat(source).st_mtime_ns if os.path.isfile(source) else 0
    said = (function.__module__, function.__qualname__, source, stamp, str(wanted), options)
    return hashlib.sha256(repr(said).encode()).hexdigest()[:24]


def _with_cache(function: Callable[..., Any], options: dict[str, Any], folder: Path) -> Any:
    """Return a dispatcher that looks into a folder, and writes to it when it compiles."""
    before = config.CACHE_DIR
    try:
        config.CACHE_DIR = str(folder)
        return numba.njit(cache=True, **options)(function)
    finally:
        config.CACHE_DIR = before


def _loaded(function: Callable[..., Any], wanted: Any, options: dict[str, Any], kept: Path) -> Any:
    """Return a function out of its folder, or None where it is missing or damaged."""
    if not os.path.lexists(kept):
        return None
    if code_cache.intact(kept):
        try:
            found = _with_cache(function, options, kept)
            found.compile(wanted)
        # Whatever is wrong with a pickle of another numba, compiling anew is right.
        except Exception as error:
            LOG.warning("%s: kept machine code does not load (%s)", kept, type(error).__name__)
        else:
            if not found.stats.cache_hits:
                code_cache.seal(kept)
            return found
    LOG.warning("%s: kept machine code is damaged; compiling it anew", kept)
    return None


def _stored(function: Callable[..., Any], wanted: Any, options: dict[str, Any], kept: Path) -> Any:
    """Compile a function, and keep it in its folder if that can be written."""
    _announce()
    written, found = None, None
    try:
        written = code_cache.draft(kept)
        found = _with_cache(function, options, written)
        found.compile(wanted)
        code_cache.publish(written, kept)
    except (OSError, RuntimeError) as error:
        # RuntimeError: numba knows no place for functions without a file.
        if isinstance(error, OSError):
            LOG.warning("%s: machine code cannot be kept: %s", kept, error.strerror or error)
        if written is not None:
            code_cache.discard(written)
        if found is None or not found.signatures:
            found = numba.njit(**options)(function)
            found.compile(wanted)
    return found


@lru_cache(maxsize=1)
def _announce() -> None:
    """Say why nothing seems to happen, once per process."""
    LOG.warning("compiling for this machine, once after an installation (up to a minute)")


compiled_once = lru_cache(maxsize=256)(compiled)
"""`compiled`, which a process asks for a function and a signature once."""


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, compiled for the types of its arguments."""
    return compiled_once(function, *map(numba.typeof, arguments))(*arguments)
