"""Fitted models on disk, with the hash of the data behind them; loading never runs code."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lemix_opt.errors import FieldError, FileFormatError
from lemix_opt.files import existing_file, write_atomically

VERSION = 3
"""Of the models' attributes; to be raised when a kind of model that is saved changes them."""
_TRUSTED = {
    "predictors.boosting.SymmetricTrees",
    "predictors.efficiencies.TermTree",
    "predictors.evidence.NoiseScale",
    "predictors.operation_fit.Choices",
    "predictors.measured_range.MeasuredRange",
    "predictors.operation_model.OperationTimeModel",
    "predictors.hops.HopModel",
    "predictors.memory_model.MemoryModel",
    "predictors.time_models.AnalyticTimeModel",
    "predictors.time_models.BoostedTimeModel",
    "predictors.time_models.ReferenceTimeModel",
    # What gradient boosting of trees consists of.
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.Interval",
    "sklearn._loss.loss.HalfSquaredError",
    "sklearn._loss._loss.CyHalfSquaredError",
    "sklearn.tree._tree.Tree",
}


_MOST_BYTES = 2**29
_MALFORMED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    # What an array's header claims is not there.
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What unpacking and rebuilding broken content can raise."""


@dataclass(frozen=True)
class SavedModel:
    """A model read from a file.

    Parameters
    ----------
    model : estimator
        The fitted model.
    data_sha256 : str
        Hash of the file it was fitted on.
    """

    model: Any
    data_sha256: str


def _malformed(path: Path, error: Exception) -> FileFormatError:
    if isinstance(error, FileFormatError):
        return error
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return FileFormatError(
        f"not a saved model ({said})", where=str(path), expected="a file of save_model"
    )


def save_model(model: Any, path: str | os.PathLike[str], data_sha256: str) -> None:
    """Write a fitted model with skops; the file appears whole or not at all.

    Raises
    ------
    FieldError
        If the model is of a kind that could not be loaded again.
    """
    import skops.io

    content = skops.io.dumps({"version": VERSION, "model": model, "data_sha256": data_sha256})
    foreign = set(skops.io.get_untrusted_types(data=content)) - _TRUSTED
    if foreign:
        raise FieldError(
            ", ".join(sorted(foreign)), where="model", expected="a model of this package"
        )
    write_atomically(path, content)


def load_model(path: str | os.PathLike[str]) -> SavedModel:
    """Read a model that `save_model` wrote.

    Raises
    ------
    FileFormatError
        If the file is no such model, or asks for a type that is not trusted.
    """
    import skops.io

    path = existing_file(path, "a saved model")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise FileFormatError(f"{size} bytes", where=str(path), expected=f"at most {_MOST_BYTES}")
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as parts:
            size = sum(part.file_size for part in parts.infolist())
        if size > _MOST_BYTES:
            raise FileFormatError(
                f"{size} bytes unpacked", where=str(path), expected=f"at most {_MOST_BYTES}"
            )
        foreign = set(skops.io.get_untrusted_types(data=content)) - _TRUSTED
    except _MALFORMED as error:
        raise _malformed(path, error) from None
    if foreign:
        raise FileFormatError(
            f"asks for {', '.join(sorted(foreign))}",
            where=str(path),
            expected="types of this package only",
        )
    try:
        found = skops.io.loads(content, trusted=sorted(_TRUSTED))
    except _MALFORMED as error:
        raise _malformed(path, error) from None
    if not isinstance(found, dict) or not {"model", "data_sha256"} <= set(found):
        raise FileFormatError(
            f"holds a {type(found).__name__}", where=str(path), expected="a file of save_model"
        )
    version, model, sha256 = (found.get(key) for key in ("version", "model", "data_sha256"))
    if version != VERSION:
        raise FileFormatError(
            f"version {str(version)[:20]}",
            where=str(path),
            expected=f"version {VERSION}",
            hint="Fit it again with 'lemix fit --out'",
        )
    if not isinstance(sha256, str):
        raise FileFormatError(
            f"a {type(sha256).__name__}", where=f"{path}: data_sha256", expected="a hash as text"
        )
    return SavedModel(model, sha256)
