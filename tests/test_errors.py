"""Messages show nothing of a file as it is, and quote little of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.cli_options import say, show
from lemix_opt.checks import choice
from lemix_opt.errors import FieldError, LemixError, printable, suggest

EVIL = "\x1b]0;title\x07\x1b[2J\r\n\u202e\u2028\udcff"


@given(st.text())
def test_printable_text_is_of_one_line_and_stays_when_shown_twice(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert text.isprintable() == (shown == text)


def test_errors_are_printable_and_short() -> None:
    error = LemixError(EVIL * 10**5, where=EVIL * 10**5, expected=EVIL * 10**5, hint=EVIL * 10**5)
    assert str(error).isprintable()
    assert len(str(error)) < 30_000
    assert len(error.what) <= 300
    with pytest.raises(FieldError) as caught:
        choice("kind", "k" * 10**6, ("a", "b"))
    assert len(str(caught.value)) < 200


def test_suggestions_take_no_time_of_many_long_names() -> None:
    said = suggest("x" * 10**6, (f"{i}" + "y" * 10**5 for i in range(10**6)))
    assert len(said) < 5000
    assert said.endswith("more")


def test_what_commands_print_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"first\n{EVIL}")
    say(EVIL, err=True)
    show({f"name{EVIL}": f"value{EVIL}", "count": np.int64(3)}, False)
    show({f"name{EVIL}": f"value{EVIL}"}, True)
    found = capsys.readouterr()
    for text in (found.out, found.err):
        assert all(line.isprintable() for line in text.split("\n"))
    assert found.out.startswith("first\n\\x1b]0;title")


def test_arrays_that_are_none_are_fields() -> None:
    deep: list[object] = []
    for _ in range(10**5):
        deep = [deep]
    for value in (deep, [1.0, 10**400], [[1], [2, 3]], {"a": 1}, "text"):
        with pytest.raises(FieldError, match="expected"):
            choice_of(value)


def choice_of(value: object) -> object:
    """Check a value as any field of an instance is checked."""
    from lemix_opt.checks import floats

    return floats("forward_s", value)
