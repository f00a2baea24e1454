"""Parquet tables and one JSON header in a zip file, read without trusting any size in it."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from instances.parquet_guard import check_parquet
from lemix_opt.errors import FileFormatError
from lemix_opt.files import existing_file, write_atomically
from lemix_opt.recording import FLOAT, INT, TEXT

Columns = Mapping[str, npt.NDArray[Any]]
Layout = Mapping[str, str]
"""Names of a table's columns, in order, with their kinds."""

MAX_HEADER_BYTES = 2**24
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
)


def write_tables(
    path: str | os.PathLike[str], header: str, plain: Any, tables: Mapping[str, Columns]
) -> None:
    """Write a JSON header called `header` and tables; the file appears whole or not at all.

    The same content gives the same bytes. Parquet is written without compression of its own, so
    that the zip's is the only one and bounds what reading takes.
    """
    import polars as pl

    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        text = msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"
        archive.writestr(_member(header), text)
        for name, columns in tables.items():
            frame = pl.DataFrame(
                [
                    pl.Series(key, column.tolist(), dtype=pl.String)
                    if column.dtype == object
                    else pl.Series(key, np.ascontiguousarray(column))
                    for key, column in columns.items()
                ]
            )
            content = io.BytesIO()
            frame.write_parquet(content, compression="uncompressed", statistics=False)
            archive.writestr(_member(f"{name}.parquet"), content.getvalue())
    write_atomically(path, made.getvalue())


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _DATE)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16
    return member


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
            self._archive = zipfile.ZipFile(io.BytesIO(self.path.read_bytes()))
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
        rows = check_parquet(content, where, tuple(layout), self.left)
        self.left -= rows * len(layout) * 16
        try:
            frame = pl.read_parquet(io.BytesIO(content), hive_partitioning=False)
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
