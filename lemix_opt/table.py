"""Measured rows as columns, with their units and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lemix_opt.errors import FieldError, unknown


@dataclass(frozen=True, eq=False)
class Table(Mapping[str, npt.NDArray[Any]]):
    """Columns of equal length read from one source; ``table["prefill_ms"]`` is an array.

    Parameters
    ----------
    name : str
        Name of the dataset.
    columns : mapping of str to ndarray, each of shape (R,)
        Values; NaN marks a missing measurement in float columns.
    units : mapping of str to str
        Unit of every numeric column that has one.
    source : str
        Where the rows come from and under which licence.
    missing : mapping of str to int
        How many cells of a column are missing, by the source's own codes.
    sha256 : str
        Hash of the file that was read.
    origin_ns : int
        Nanoseconds on the source's clock at which columns of time stamps are 0.
    """

    name: str
    columns: Mapping[str, npt.NDArray[Any]]
    units: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    missing: Mapping[str, int] = field(default_factory=dict)
    sha256: str = ""
    origin_ns: int = 0

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise FieldError(f"{lengths}", where=self.name, expected="columns of equal length")

    @property
    def rows(self) -> int:
        """Number of rows R."""
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        if column not in self.columns:
            raise unknown(f"column of {self.name}", column, self.columns)
        return self.columns[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def where(self, mask: npt.NDArray[np.bool_]) -> Table:
        """Return the rows at which `mask` is true."""
        columns = {name: column[mask] for name, column in self.columns.items()}
        return replace(self, columns=columns)
