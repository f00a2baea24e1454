"""Options and output that all commands share."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Seed = Annotated[int, typer.Option(help="Seed of all randomness.")]


def show(values: dict[str, Any], as_json: bool) -> None:
    """Print names and values, as aligned text or as JSON."""
    if as_json:
        typer.echo(json.dumps(values, indent=2, default=str))
        return
    width = max(map(len, values), default=0)
    for name, value in values.items():
        typer.echo(f"{name:{width}s}  {value}")
