"""The folder of a sweep: a file per finished cell, and one process at a time that writes them."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from experiments.notes import NOTES
from experiments.sweep_config import Cell
from lemix_opt.errors import FileFormatError, LemixError
from lemix_opt.files import made_folder, write_atomically

_TEXT = ("parameters", "problem", "solver", "error", "status", "note", "truth", "outside_lemix")
_WORDS = {"inf": math.inf, "-inf": -math.inf}
"""Numbers that JSON lacks."""
_LARGEST = 2**63
_QUOTED = 120
"""Characters of a damaged file's content that its error quotes at most."""
TABLES = ("results.parquet", "times.parquet")


@contextmanager
def opened(folder: Path) -> Iterator[Path]:
    """Yield the folder of cells, which no other process writes to meanwhile.

    The lock is the operating system's, so that it ends with the process however that ends. Pieces
    of files that a killed process left are removed.

    Raises
    ------
    LemixError
        If another process has it, or the folder cannot be made or written to.
    """
    store = made_folder(made_folder(folder) / "cells")
    path = folder / ".lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise LemixError(
            f"cannot be written ({error.strerror})", where=str(path), expected="a writable folder"
        ) from None
    with os.fdopen(handle, "r+") as file:
        if not _locked(file.fileno()):
            raise LemixError(
                f"another sweep writes here ({_line(file.read()) or 'of unknown number'})",
                where=str(folder),
                hint="Wait for it to end, or choose another folder",
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        for place, name in ((store, ""), *((folder, table) for table in TABLES)):
            for piece in place.glob(f".{name}*.tmp"):
                piece.unlink(missing_ok=True)
        yield store


def _locked(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_cell(store: Path, cell: Cell, found: dict[str, Any]) -> dict[str, Any]:
    """Keep a finished cell; return it as `read_cell` will."""
    plain = found | {"row": {name: _worded(value) for name, value in found["row"].items()}}
    write_atomically(store / f"{cell.key}.json", msgspec.json.encode(plain))
    return found | {"row": {name: _number(value) for name, value in plain["row"].items()}}


def read_cell(store: Path, cell: Cell) -> dict[str, Any] | None:
    """Return a finished cell; None where there is none.

    Raises
    ------
    FileFormatError
        If its file is damaged.
    """
    path = store / f"{cell.key}.json"
    if not path.exists():
        return None
    try:
        found = msgspec.json.decode(path.read_bytes())
        _check(cell, found)
    except (msgspec.MsgspecError, ValueError, RecursionError, OSError) as error:
        raise FileFormatError(
            f"damaged ({_line(str(error))})",
            where=str(path),
            expected="a cell that this sweep has kept",
            hint="Remove the file to run its cell again",
        ) from None
    row = {name: _number(value) for name, value in found["row"].items()}
    return {"row": row, "wall_s": float(found["wall_s"])}


def _check(cell: Cell, found: Any) -> None:
    """Raise `ValueError` unless a file holds a row of that cell with values of the right types."""
    row = found.get("row") if isinstance(found, dict) else None
    if not isinstance(row, dict):
        raise ValueError("no row")
    if not _is_number(found.get("wall_s")) or found["wall_s"] < 0:
        raise ValueError("wall_s is no number of seconds")
    same = {"solver": cell.solver, "parameters": cell.parameters, "seed": cell.seed}
    for name, value in same.items():
        if row.get(name) != value or isinstance(row.get(name), bool):
            raise ValueError(f"{name} is not that of its cell")
    if "error" not in row or (row["error"] is None and not isinstance(row.get("status"), str)):
        raise ValueError("neither a status nor an error")
    for name, value in row.items():
        text = name in _TEXT or name in NOTES
        right = isinstance(value, str) if text else _is_number(_number(value))
        if value is not None and not right:
            raise ValueError(f"{name} is no {'text' if text else 'number'}")


def _is_number(value: Any) -> bool:
    return isinstance(value, float | bool) or (isinstance(value, int) and abs(value) < _LARGEST)


def _worded(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else "inf" if value > 0 else "-inf"


def _number(value: Any) -> Any:
    return _WORDS.get(value, value) if isinstance(value, str) else value


def _line(text: str) -> str:
    first = next(iter(text.splitlines()), "")
    return first if len(first) <= _QUOTED else f"{first[:_QUOTED]}..."
