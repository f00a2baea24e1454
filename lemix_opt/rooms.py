"""Which folder each room of this distribution comes from, and who stands in its way."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

ROOMS = ("experiments", "solvers", "predictors", "instances")
HOME = Path(__file__).resolve().parent.parent
"""Folder that holds all rooms of this distribution."""


@dataclass(frozen=True)
class Shadow:
    """A folder that has the name of a room but is not it.

    Parameters
    ----------
    room : str
        Name of the room.
    ours, theirs : str
        Path of this distribution's room, and of the folder that hides it.
    """

    room: str
    ours: str
    theirs: str

    def __str__(self) -> str:
        return f"{self.room}: {self.theirs} hides {self.ours}"


def shadows() -> list[Shadow]:
    """Rooms that `sys.path` resolves to another folder than this distribution's."""
    found = []
    for room in ROOMS:
        spec = PathFinder.find_spec(room, sys.path)
        places = [*(spec.submodule_search_locations or []), spec.origin] if spec else []
        if not places or places[0] is None:
            continue
        theirs = Path(places[0]).resolve()
        if theirs != HOME / room:
            found.append(Shadow(room, str(HOME / room), str(theirs)))
    return found


def put_home_first() -> list[Shadow]:
    """Make this distribution's rooms win the import search; return what would have hidden them."""
    hidden = shadows()
    if hidden:
        sys.path.insert(0, str(HOME))
    return hidden
