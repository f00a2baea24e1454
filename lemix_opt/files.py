"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lemix_opt.errors import LemixError


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Put `content` at `path`; when anything fails, what was there before stays as it was.

    Raises
    ------
    LemixError
        If the folder does not exist.
    OSError
        If the disk is full or not writable.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise LemixError("no such folder", where=str(path.parent), expected="an existing folder")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Temporary files are private; the result gets the rights of any new file.
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
