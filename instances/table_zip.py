"""Parquet tables and one JSON header in a zip file, read without trusting any size in it."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt

from instances.parquet_guard import CELL_BYTES, check_parquet
from lemix_opt.errors import FileFormatError
from lemix_opt.files import existing_file, new_file
from lemix_opt.recording import FLOAT, INT, TEXT

Columns = Mapping[str, npt.NDArray[Any]]
Layout = Mapping[str, str]
"""Names of a table's columns, in order, with their kinds."""

MAX_HEADER_BYTES = 2**24
MAX_BYTES = 2**32
"""Largest file of tables that is read, decompressed and decoded."""
MOST_IN_JSON = 100_000
"""Tasks up to which a file whose ending says nothing is JSON."""
LARGE_BYTES = 2**20
"""A table of more bytes is stored as it is, unless asked otherwise."""
ROWS = 2**24
"""Most rows of a row group: columns of one are read without putting pieces together."""
_MAGIC = b"PK\x03\x04"
_DATE = (1980, 1, 1, 0, 0, 0)
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    UnicodeDecodeError,
    ValueError,
    OSError,
)


def is_zip(path: str | os.PathLike[str], expected: str) -> bool:
    """Whether a file begins as a zip file does, whatever its name."""
    with existing_file(path, expected).open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def wants_tables(path: str | os.PathLike[str], tasks: int) -> bool:
    """Whether a file of so many tasks is written as tables: by its ending, else by their number."""
    ending = Path(path).suffix
    return ending == ".zip" or (ending not in (".json", ".gz") and tasks > MOST_IN_JSON)


def write_tables(
    path: str | os.PathLike[str],
    header: str,
    plain: Any,
    tables: Iterable[tuple[str, Columns]],
    compress: bool | None = None,
) -> None:
    """Write a JSON header called `header` and tables; the file appears whole or not at all.

    The same content gives the same bytes. Parquet is written without compression of its own, so
    that the zip's is the only one and bounds what reading takes.

    Parameters
    ----------
    path : path-like
        Target.
    header : str
        Name of the header.
    plain : Any
        Its content.
    tables : iterable of (str, columns)
        Names and columns; each is written before the next one is asked for.
    compress : bool, optional
        Whether the zip compresses tables; those up to `LARGE_BYTES` when omitted.
    """
    with new_file(path) as file, zipfile.ZipFile(file, "w", compresslevel=6) as archive:
        text = msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"
        archive.writestr(_member(header, True), text)
        for name, columns in tables:
            member = _member(f"{name}.parquet", True)
            # Also tells the archive how many bytes sizes need; Parquet is hardly ever larger.
            member.file_size = sum(column.nbytes for column in columns.values())
            small = member.file_size <= LARGE_BYTES
            if not (small if compress is None else compress):
                member.compress_type = zipfile.ZIP_STORED
            # Columns of many digits take the thorough levels ten times as long for a tenth.
            member._compresslevel = 6 if small else 1  # type: ignore[attr-defined]
            with archive.open(member, "w") as table:
                _write_parquet(columns, table)


def _write_parquet(columns: Columns, file: IO[bytes]) -> None:
    import polars as pl

    frame = pl.DataFrame(
        [
            pl.Series(key, column.tolist(), dtype=pl.String)
            if column.dtype == object
            else pl.Series(key, np.ascontiguousarray(column))
            for key, column in columns.items()
        ]
    )
    frame.write_parquet(file, compression="uncompressed", statistics=False, row_group_size=ROWS)


def _member(name: str, compress: bool) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _DATE)
    member.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    member.external_attr = 0o644 << 16
    return member


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what compiled libraries write to the error stream before they raise, such as panics."""
    try:
        kept = os.dup(2)
    except OSError:  # A process may have no error stream.
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class TableZip:
    """A zip file of tables that is open for reading.

    Parameters
    ----------
    path : path-like
        The file.
    expected : str
        What it should be, for errors.
    max_bytes : int
        Largest file, and largest sum of all that is read from it, decompressed and decoded.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged or too large.
    """

    def __init__(self, path: str | os.PathLike[str], expected: str, max_bytes: int) -> None:
        self.path, self.expected = existing_file(path, expected), expected
        self.left = self.max_bytes = max_bytes
        if self.path.stat().st_size > max_bytes:
            raise self._too_large()
        try:
            # Closed with this object; tables are read one by one, so that only one is in memory.
            self._archive = zipfile.ZipFile(self.path)
        except _DAMAGE as error:
            raise FileFormatError(
                f"not a zip file ({error})", where=str(self.path), expected=expected
            ) from None
        names = self._archive.namelist()
        if len(set(names)) < len(names):
            raise FileFormatError(
                "two members of one name", where=str(self.path), expected=expected
            )

    def _too_large(self) -> FileFormatError:
        return FileFormatError(
            f"more than {self.max_bytes} bytes",
            where=str(self.path),
            expected="a smaller file",
            hint="Raise max_bytes if the file can be trusted",
        )

    def tables(self) -> list[str]:
        """Names of the tables in the file."""
        return [n[: -len(".parquet")] for n in self._archive.namelist() if n.endswith(".parquet")]

    def header(self, name: str) -> bytes:
        """Return the JSON header's text."""
        return self._content(name, MAX_HEADER_BYTES)

    def _content(self, name: str, most: int) -> bytes:
        if name not in self._archive.namelist():
            raise FileFormatError(
                f"no {name!r} in it", where=str(self.path), expected=self.expected
            )
        member = self._archive.getinfo(name)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FileFormatError(
                f"compression {member.compress_type}",
                where=f"{self.path}: {name}",
                expected="a member that is stored or deflated",
            )
        most = min(most, self.left)
        if member.file_size > most:
            raise self._too_large()
        try:
            with self._archive.open(member) as file:
                content = file.read(most + 1)
        except _DAMAGE as error:
            raise FileFormatError(
                f"damaged ({error})", where=f"{self.path}: {name}", expected=self.expected
            ) from None
        if len(content) > most:
            raise self._too_large()
        self.left -= len(content)
        return content

    def table(self, name: str, layout: Layout) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of a table.

        Raises
        ------
        FileFormatError
            If it is missing, damaged, too large, has other columns or types, or an empty cell.
        """
        import polars as pl

        content = self._content(f"{name}.parquet", self.left)
        where = f"{self.path}: {name}"
        cell_bytes = {key: CELL_BYTES if kind == TEXT else 8 for key, kind in layout.items()}
        rows = check_parquet(content, where, cell_bytes, self.left)
        self.left -= rows * sum(cell_bytes.values())
        try:
            with _quiet():
                frame = pl.read_parquet(io.BytesIO(content), hive_partitioning=False)
            del content
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            raise FileFormatError(
                f"damaged Parquet ({str(error)[:100]})", where=where, expected=self.expected
            ) from None
        types: dict[str, Any] = {TEXT: pl.String, INT: pl.Int64, FLOAT: pl.Float64}
        columns: dict[str, npt.NDArray[Any]] = {}
        for key, kind in layout.items():
            series = frame[key]
            if series.dtype != types[kind] or series.null_count():
                raise FileFormatError(
                    f"{series.dtype} with {series.null_count()} empty cells",
                    where=f"{where}.{key}",
                    expected=f"{types[kind].__name__} without empty cells",
                )
            if kind == TEXT:
                columns[key] = np.empty(rows, dtype=object)
                columns[key][:] = series.to_list()
            else:
                columns[key] = series.to_numpy()
        return columns
