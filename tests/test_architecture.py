"""Arrows between the rooms go down only, and nothing heavy loads with the core."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BELOW = {
    "lemix_opt": set(),
    "solvers": {"lemix_opt"},
    "predictors": {"lemix_opt"},
    "instances": {"lemix_opt"},
    "experiments": {"lemix_opt", "solvers", "predictors", "instances"},
}
FILES = [path for room in BELOW for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_rooms_below(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    assert imported(path) & (set(BELOW) - {room}) <= BELOW[room]


def test_every_room_is_typed() -> None:
    assert all((ROOT / room / "py.typed").is_file() for room in BELOW)
