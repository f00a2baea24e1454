"""Result tables: Parquet with the same bytes for the same rows, and plain text."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lemix_opt.errors import FileFormatError
from lemix_opt.files import existing_file, write_atomically

Row = Mapping[str, Any]


def write_parquet(
    rows: Sequence[Row], path: str | os.PathLike[str], metadata: Mapping[str, str]
) -> None:
    """Write rows and what has to be said about them; the file appears whole or not at all.

    Parameters
    ----------
    rows : sequence of mapping
        Rows with the same keys; None is a missing value.
    path : path-like
        Target.
    metadata : mapping of str to str
        Kept in the file's key-value metadata.
    """
    import polars as pl

    buffer = io.BytesIO()
    frame = pl.DataFrame([dict(row) for row in rows], infer_schema_length=None)
    frame.write_parquet(buffer, metadata=dict(metadata))
    write_atomically(path, buffer.getvalue())


def read_parquet(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Read rows and metadata that `write_parquet` wrote.

    Raises
    ------
    FileFormatError
        If the file is missing or no Parquet file.
    """
    import polars as pl

    path = existing_file(path, "a Parquet table")
    content = path.read_bytes()
    try:
        rows = pl.read_parquet(io.BytesIO(content)).to_dicts()
        metadata = pl.read_parquet_metadata(io.BytesIO(content))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise FileFormatError(
            f"not a Parquet table ({error})", where=str(path), expected="a Parquet table"
        ) from None
    return rows, {k: v for k, v in metadata.items() if not k.startswith("ARROW:")}


@dataclass(frozen=True)
class Column:
    """How a column is shown.

    Parameters
    ----------
    name : str
        Key in the rows.
    title : str
        Head, with the unit.
    digits : int, default 3
        Digits after the point of a number.
    percent : bool, default False
        Whether a share is shown in percent.
    """

    name: str
    title: str
    digits: int = 3
    percent: bool = False

    def show(self, value: Any) -> str:
        """Return the cell's text; a dash for a missing value."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, float):
            return f"{100 * value if self.percent else value:.{self.digits}f}"
        return str(value)


def text_table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Lay rows out in aligned columns; text to the left, numbers to the right."""
    cells = [[c.title for c in columns]]
    cells += [[c.show(row.get(c.name)) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    texts = [any(isinstance(row.get(c.name), str) for row in rows) for c in columns]
    lines = [
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, texts, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
