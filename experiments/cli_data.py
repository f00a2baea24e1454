"""The command on data: `lemix datasets`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from experiments.cli_options import Json, as_json_text, say
from lemix_opt.errors import DatasetError


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(datasets)


def datasets(
    name: Annotated[
        str, typer.Argument(help="Dataset to fetch and check; all when left out.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List datasets with licence, size, hash and place, or fetch one and check it."""
    from experiments.tables import Column, text_table
    from instances.datasets import dataset, fetch, locate
    from instances.datasets import datasets as known

    if name:
        found = fetch(dataset(name))
        said = {"name": name, "path": str(found.path), "found": found.where, "sha256": "checked"}
        say(as_json_text(said) if as_json else f"{name}: {found.path}, hash checked")
        return
    rows: list[dict[str, Any]] = []
    for key, entry in sorted(known().items()):
        try:
            place = locate(entry)
            where = "not here" if place is None else f"{place.where}: {place.path}"
        except DatasetError as error:
            where = f"refused: {error}"
        get = entry.address or f"build from {entry.derived_from}: {entry.recipe}"
        rows.append(
            {
                "name": key,
                "licence": entry.licence,
                "bytes": entry.bytes,
                "sha256": entry.sha256,
                "reader": entry.reader or None,
                "where": where,
                "get": get,
            }
        )
    if as_json:
        say(as_json_text(rows))
        return
    short = [row | {"sha256": f"{row['sha256'][:12]}…"} for row in rows]
    columns = ("name", "licence", "bytes", "sha256", "reader", "where", "get")
    say(text_table(short, [Column(c, c) for c in columns]))
