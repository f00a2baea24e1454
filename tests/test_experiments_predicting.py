"""Points of `lemix predict`: what is read is what was written, or refused by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.predicting import OPERATION, read_points
from lemix_opt.errors import FileFormatError, UnknownNameError


def test_columns_left_out_are_as_in_the_default(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("model, rows\nllama-7b, 4\n\nopt-30b,8.5\n")
    first, second = read_points(path, OPERATION)
    assert first == {**OPERATION, "model": "llama-7b", "rows": 4.0}
    assert second["rows"] == 8.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows\n" + "1" * 200_000 + "\n", "line 2"),
        ("rows,rows\n1,2\n", "'rows' twice"),
        ("rows\n1_0\n", "line 2, rows: '1_0'"),
        ("rows\n١٢\n", "line 2, rows"),
        ("rows\nnan\n", "line 2, rows: 'nan'"),
        ("rows,length\n1\n", "line 2: 1 cells"),
        ("rows\n", "no rows"),
        ("", "empty"),
    ],
)
def test_what_is_no_point_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileFormatError, match=said):
        read_points(path, OPERATION)


def test_an_unknown_column_has_a_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("row\n1\n")
    with pytest.raises(UnknownNameError, match="'rows'"):
        read_points(path, OPERATION)


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_points_come_from_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileFormatError):
        read_points(tmp_path / name, OPERATION)
