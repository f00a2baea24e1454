"""Options and output that all commands share."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import typer

from lemix_opt.errors import FieldError, printable
from lemix_opt.files import check_file, check_folder

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
CUT = 130
"""Exit code of a command that Ctrl-C has ended, as shells have it."""
Seed = Annotated[int, typer.Option(min=0, help="Seed of all randomness.")]


def out_file(out: Path | None, *inputs: Path | None) -> None:
    """Check ahead of the work that a file can be written, and is none of what is read.

    Raises
    ------
    FieldError
        If it would replace one of the inputs.
    LemixError
        If it cannot be written.
    """
    if out is None:
        return
    if any(_same(out, path) for path in inputs if path is not None):
        raise FieldError(str(out), where="--out", expected="another file than what is read")
    check_file(out)


def out_folder(out: Path | None, written: Sequence[str] = (), *inputs: str | Path | None) -> None:
    """Check ahead of the work that a folder can be written to.

    Parameters
    ----------
    written : sequence of str
        Patterns of the files that will be written.
    *inputs : str or Path, optional
        What is read: none may be such a file in the folder. Names of data are no files there.

    Raises
    ------
    FieldError
        If an input would be replaced.
    LemixError
        If the folder cannot be made or written to.
    """
    if out is None:
        return
    check_folder(out)
    for path in (Path(read) for read in inputs if read is not None):
        if any(fnmatch(path.name, name) for name in written) and _same(out, path.parent):
            raise FieldError(
                str(out), where="--out", expected="another folder", hint=f"It would replace {path}"
            )


def _same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


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
