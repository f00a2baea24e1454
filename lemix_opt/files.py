"""Files: read up to a limit, written whole or not at all; gzip by the ending."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lemix_opt.checks import whole
from lemix_opt.errors import FileFormatError, LemixError

_PIECE_BYTES = 2**20
_LINE_END = re.compile(rb"\r\n|\r|\n")
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_GZIP = b"\x1f\x8b"
ADMIT_MORE = "Raise max_bytes if the file can be trusted ('lemix import': --set max_bytes=N)"
"""What to do about a file that is too large."""


def existing_file(path: str | os.PathLike[str], expected: str) -> Path:
    """Return the path of a regular file that may be read.

    Raises
    ------
    FileFormatError
        If there is none; folders, pipes and devices are refused, which end never or only once.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise FileFormatError("no such file", where=str(path), expected=expected)
        if not path.is_file():
            what = "a folder" if path.is_dir() else "a pipe or device"
            raise FileFormatError(f"{what}, no file", where=str(path), expected=expected)
        path.open("rb").close()
    except (OSError, ValueError) as error:
        if isinstance(error, FileFormatError):
            raise
        said = error.strerror if isinstance(error, OSError) else error
        raise FileFormatError(
            f"cannot be read ({said})", where=str(path), expected=expected
        ) from None
    return path


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
    path, max_bytes = existing_file(path, expected), whole("max_bytes", max_bytes, minimum=1)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            content = _up_to(file, max_bytes + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FileFormatError(
            f"damaged gzip ({error})", where=str(path), expected="a whole gzip file"
        ) from None
    if len(content) > max_bytes:
        raise FileFormatError(
            f"more than {max_bytes} bytes",
            where=str(path),
            expected=f"at most {max_bytes}, decompressed",
            hint=ADMIT_MORE,
        )
    return content


def text_content(path: str | os.PathLike[str], expected: str, max_bytes: int) -> str:
    """Return a file's text, read as in `read_content`: UTF-8, or UTF-16 as PowerShell writes it.

    Raises
    ------
    FileFormatError
        If the file is missing, too large, damaged, or no text.
    """
    content = read_content(path, expected, max_bytes)
    encoding = _utf16(content) or "utf-8"
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _not_text(path, content, error, encoding) from None


def _utf16(content: bytes) -> str | None:
    """Return the name of UTF-16's byte order, by its mark, or by the zeros beside plain letters."""
    if (marked := _UTF16.get(content[:2])) is not None:
        return marked
    start = content[: min(64, len(content)) // 2 * 2]
    even, odd = start[::2], start[1::2]
    if len(start) >= 4:
        if not any(odd) and all(even):
            return "utf-16-le"
        if not any(even) and all(odd):
            return "utf-16-be"
    return None


def utf8_of(content: bytes) -> bytes:
    """Return the content of a JSON file in UTF-8 without a mark, whatever it was written in."""
    encoding = _utf16(content)
    if encoding is None:
        return content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode(encoding).removeprefix("\ufeff").encode()
    except (UnicodeDecodeError, UnicodeEncodeError):
        return content


def line_at(content: bytes, byte: int, width: int = 1) -> int:
    """Return the line of a byte, from 1; lines end as in any system's text files."""
    before = content[:byte] if width == 1 else content[:byte].replace(b"\0", b"")
    return sum(1 for _ in _LINE_END.finditer(before)) + 1


def check_utf8(path: str | os.PathLike[str], content: bytes, line: int = 1) -> None:
    """Raise the error that names the line of the first byte that is not UTF-8, if there is one."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise _not_text(path, content, error, line=line) from None


def _not_text(
    path: str | os.PathLike[str],
    content: bytes,
    error: UnicodeDecodeError,
    encoding: str = "utf-8",
    line: int = 1,
) -> FileFormatError:
    """Return the error for bytes that are no text, with their line and what they may be.

    `error` counts from the beginning of `content`, which begins at a line of the file.
    """
    wide = encoding.startswith("utf-16")
    at = line - 1 + line_at(content, error.start, 2 if wide else 1)
    if content.startswith(_GZIP):
        hint = "It begins as gzip does: let its name end in .gz"
    elif wide:
        hint = "It begins as UTF-16 does, and is damaged or cut off there"
    else:
        hint = "If it is of another encoding: iconv -f WINDOWS-1252 -t UTF-8 FILE, or save as UTF-8"
    found = content[error.start : error.start + 1].hex()
    return FileFormatError(
        f"byte {error.start} (0x{found}) is not {'UTF-16' if wide else 'UTF-8'}",
        where=f"{path}:{at}",
        expected="text in UTF-8 or UTF-16",
        hint=hint,
    )


def _up_to(file: BinaryIO | gzip.GzipFile, size: int) -> bytes:
    """Read at most so many bytes; `read` itself would make room for all of them at once."""
    found = io.BytesIO()
    while (left := size - found.tell()) and (piece := file.read(min(left, _PIECE_BYTES))):
        found.write(piece)
    return found.getvalue()


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Put `content` at `path`, as `new_file` does."""
    with new_file(path) as file:
        file.write(content)


@contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file that is at `path` once all is written.

    When anything fails, what was there before stays as it was. A link stays one, and its target is
    replaced. What is no regular file, such as ``/dev/null``, stays too and is written to.

    Raises
    ------
    LemixError
        If the folder does not exist, or nothing can be made in it.
    OSError
        If the disk is full.
    """
    path = _target(path)
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    # Names may be as long as the file system allows.
    with _writable(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
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


def check_file(path: str | os.PathLike[str]) -> None:
    """Raise `LemixError` if `new_file` could not write there, ahead of work that ends in it."""
    path = _target(path)
    if not path.exists() or path.is_file():
        with _writable(path):
            tempfile.TemporaryFile(dir=path.parent).close()


def check_folder(folder: Path) -> None:
    """Raise `LemixError` unless files can be written to a folder that exists or can be made."""
    at = Path(os.path.realpath(folder))
    while not at.exists() and at != at.parent:
        at = at.parent
    if not at.is_dir():
        raise LemixError("is a file", where=str(at), expected="a folder")
    with _writable(folder):
        tempfile.TemporaryFile(dir=at).close()


def _target(path: str | os.PathLike[str]) -> Path:
    """Return the file that is written to when `path` is, behind all links."""
    path = Path(path)
    if not path.parent.is_dir():
        raise LemixError("no such folder", where=str(path.parent), expected="an existing folder")
    if path.is_dir():
        raise LemixError("is a folder", where=str(path), expected="a file to write")
    return Path(os.path.realpath(path))


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LemixError(
            f"cannot be written ({error.strerror})", where=str(path), expected="a writable folder"
        ) from None


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
