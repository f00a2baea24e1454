"""Fitted models on disk, with the hash of the data behind them; loading never runs code."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lemix_opt.errors import FieldError, FileFormatError
from lemix_opt.files import write_atomically

_TRUSTED = {
    "predictors.boosting.SymmetricTrees",
    "predictors.efficiencies.TermTree",
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


def save_model(model: Any, path: str | os.PathLike[str], data_sha256: str) -> None:
    """Write a fitted model with skops; the file appears whole or not at all.

    Raises
    ------
    FieldError
        If the model is of a kind that could not be loaded again.
    """
    import skops.io

    content = skops.io.dumps({"model": model, "data_sha256": data_sha256})
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

    path = Path(path)
    if not path.is_file():
        raise FileFormatError("no such file", where=str(path), expected="a saved model")
    content = path.read_bytes()
    try:
        foreign = set(skops.io.get_untrusted_types(data=content)) - _TRUSTED
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise FileFormatError(
            f"not a saved model ({error})", where=str(path), expected="a file of save_model"
        ) from None
    if foreign:
        raise FileFormatError(
            f"asks for {', '.join(sorted(foreign))}",
            where=str(path),
            expected="types of this package only",
        )
    found = skops.io.loads(content, trusted=sorted(_TRUSTED))
    if not isinstance(found, dict) or set(found) != {"model", "data_sha256"}:
        raise FileFormatError(
            f"holds a {type(found).__name__}", where=str(path), expected="a file of save_model"
        )
    return SavedModel(**found)
