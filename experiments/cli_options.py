"""Options and output that all commands share."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lemix_opt.errors import FieldError, printable

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all randomness.")]


def keep_inputs(out: Path | None, *inputs: Path | None) -> None:
    """Raise `FieldError` if an output would replace one of the inputs."""
    if out is not None and any(out.resolve() == path.resolve() for path in inputs if path):
        raise FieldError(str(out), where="--out", expected="another file than what is read")


def as_json_text(values: Any) -> str:
    """Return JSON of plain values; infinity and NaN, which JSON lacks, become null."""
    return json.dumps(_plain(values), indent=2, default=str, allow_nan=False)


def _plain(value: Any) -> Any:
    if (tolist := getattr(value, "tolist", None)) is not None:
        return _plain(tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def say(text: str, err: bool = False) -> None:
    """Print text; what files put into it besides line ends is shown as escapes.

    Every command prints through this, so that no file writes to the terminal by itself.
    """
    typer.echo("\n".join(map(printable, text.split("\n"))), err=err)


def show(values: dict[str, Any], as_json: bool) -> None:
    """Print names and values, as aligned text or as JSON."""
    if as_json:
        say(as_json_text(values))
        return
    width = max(map(len, values), default=0)
    for name, value in values.items():
        say(printable(f"{name:{width}s}  {value}"))
