"""Compilation: cached by the text of its sources, and working without a cache."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from numba import types

from lemix_opt.engine import jit

SIGNATURE = types.int64(types.int64)


def twice(number: int) -> int:
    return 2 * number


def compiled_twice() -> int:
    return int(jit.compiled(twice, SIGNATURE)(21))


def test_machine_code_is_kept_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(jit.CACHE_FOLDER_VARIABLE, str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert compiled_twice() == 42
    assert "once" in caplog.text
    assert list(tmp_path.rglob("*.nbi"))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        found = jit.compiled(twice, SIGNATURE)
    assert found(21) == 42
    assert not caplog.text
    assert sum(found.stats.cache_hits.values()) == 1


def test_any_edit_of_the_engine_gives_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = jit.cache_folder(twice)
    assert before == jit.cache_folder(twice)
    (tmp_path / "kernel.py").write_text("changed = True\n", encoding="utf-8")
    monkeypatch.setattr(jit, "ENGINE", tmp_path)
    assert jit.cache_folder(twice) != before


def test_it_works_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv(jit.CACHE_FOLDER_VARIABLE, str(blocked))
    assert compiled_twice() == 42


def test_other_argument_types_are_refused() -> None:
    with pytest.raises(TypeError):
        jit.compiled(twice, SIGNATURE)("word")
