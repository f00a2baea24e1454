"""Files: read up to a limit, written whole or not at all; gzip by the ending."""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from pathlib import Path

from lemix_opt.errors import FileFormatError, LemixError


def read_content(path: str | os.PathLike[str], expected: str, max_bytes: int) -> bytes:
    """Return a file's content, decompressed when the name ends in ``.gz``.

    Parameters
    ----------
    path : path-like
        The file.
    expected : str
        What it should be, for the error.
    max_bytes : int
        Largest content accepted, after decompression.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged or too large.
    """
    path = Path(path)
    if not path.is_file():
        raise FileFormatError("no such file", where=str(path), expected=expected)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FileFormatError(
            f"damaged gzip ({error})", where=str(path), expected="a whole gzip file"
        ) from None
    if len(content) > max_bytes:
        raise FileFormatError(
            f"more than {max_bytes} bytes", where=str(path), expected="a smaller file"
        )
    return content


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


def made_folder(folder: Path) -> Path:
    """Return a folder, which is made when missing.

    Raises
    ------
    LemixError
        If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LemixError(f"cannot make the folder ({error})", where=str(folder)) from None
    return folder
