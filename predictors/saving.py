"""Fitted models on disk, with the hash of the data behind them; loading never runs code."""

from __future__ import annotations

import io
import json
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lemix_opt.errors import FieldError, FileFormatError
from lemix_opt.files import existing_file, write_atomically
from predictors.state import State

VERSION = 3
"""Of the models' attributes; to be raised when a kind of model that is saved changes them."""
_MODELS = {
    "predictors.operation_model.OperationTimeModel",
    "predictors.hops.HopModel",
    "predictors.memory_model.MemoryModel",
    "predictors.time_models.AnalyticTimeModel",
    "predictors.time_models.BoostedTimeModel",
    "predictors.time_models.ReferenceTimeModel",
}
_TRUSTED = {
    *_MODELS,
    "predictors.binary_trees.BinaryTrees",
    "predictors.boosting.SymmetricTrees",
    "predictors.efficiencies.TermTree",
    "predictors.evidence.NoiseScale",
    "predictors.operation_fit.Choices",
    "predictors.measured_range.MeasuredRange",
}
_PLAIN = {
    "DictNode": ("builtins.dict",),
    "JsonNode": ("builtins.str",),
    "ListNode": ("builtins.list",),
    "NdArrayNode": ("numpy.float64", "numpy.int64", "numpy.ndarray"),
    "TupleNode": ("builtins.tuple",),
    "TypeNode": ("builtins.str",),
}
"""What else a saved model consists of: ways of loading it, and types that these may make."""
_MOST_BYTES = 2**28
_MOST_SCHEMA_BYTES = 2**22
"""Of the description of objects, which takes many times as much when it is parsed."""
_DEEPEST = 50
_SCHEMA = "schema.json"
_AGAIN = "Fit it again with 'lemix fit --out'"
_MALFORMED = (
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
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
        f"not a saved model ({said})",
        where=str(path),
        expected="a file of save_model",
        hint=_AGAIN,
    )


def save_model(model: Any, path: str | os.PathLike[str], data_sha256: str) -> None:
    """Write a fitted model with skops; the file appears whole or not at all.

    Raises
    ------
    FieldError
        If the model is of a kind, or in a state, that could not be loaded again.
    """
    import skops.io

    if _name(model) in _MODELS:
        model.check_state(State(model, "model"))
    content = skops.io.dumps({"version": VERSION, "model": model, "data_sha256": data_sha256})
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        foreign = _foreign(json.loads(parts.read(_SCHEMA)))
    if foreign or _name(model) not in _MODELS:
        foreign = foreign or {_name(model)}
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
            foreign = _foreign(_schema(parts, str(path)))
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
    version, sha256 = found.get("version"), found["data_sha256"]
    model: Any = found["model"]
    if type(version) is not int or version != VERSION:
        raise FileFormatError(
            f"version {str(version)[:20]}",
            where=str(path),
            expected=f"version {VERSION}",
            hint=_AGAIN,
        )
    if not isinstance(sha256, str):
        raise FileFormatError(
            f"a {type(sha256).__name__}", where=f"{path}: data_sha256", expected="a hash as text"
        )
    try:
        if _name(model) not in _MODELS:
            raise FieldError(f"a {_name(model)}", where="model", expected="a model of this package")
        model.check_state(State(model, "model"))
    except FieldError as error:
        raise FileFormatError(
            error.what, where=f"{path}: {error.where}", expected=error.expected, hint=_AGAIN
        ) from None
    return SavedModel(model, sha256)


def _name(found: object) -> str:
    return f"{type(found).__module__}.{type(found).__qualname__}"


def _schema(parts: zipfile.ZipFile, path: str) -> Any:
    """Return what the file says it consists of, which is not too much to load."""
    size = parts.getinfo(_SCHEMA).file_size
    if size > _MOST_SCHEMA_BYTES:
        raise FileFormatError(
            f"{size} bytes", where=f"{path}: {_SCHEMA}", expected=f"at most {_MOST_SCHEMA_BYTES}"
        )
    schema = json.loads(parts.read(_SCHEMA))
    # One file may be asked for more than once, and is read as often.
    size = sum(parts.getinfo(node["file"]).file_size for node in _nodes(schema) if "file" in node)
    if size > _MOST_BYTES:
        raise FileFormatError(
            f"{size} bytes unpacked", where=path, expected=f"at most {_MOST_BYTES}"
        )
    return schema


def _foreign(schema: Any) -> set[str]:
    """Types that a file asks for and no model of this package needs."""
    found = set()
    for node in _nodes(schema):
        if "__loader__" not in node:
            continue
        name, loader = f"{node['__module__']}.{node['__class__']}", node["__loader__"]
        plain = name in _PLAIN.get(loader, ())
        if not plain and not (name in _TRUSTED and loader == "ObjectNode"):
            found.add(f"{name} by {loader}" if name in _TRUSTED else name)
    return found


def _nodes(schema: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """All objects of a JSON document."""
    if depth > _DEEPEST:
        raise ValueError(f"nested more than {_DEEPEST} deep")
    if isinstance(schema, dict):
        yield schema
    if isinstance(schema, dict | list):
        for part in schema.values() if isinstance(schema, dict) else schema:
            yield from _nodes(part, depth + 1)
