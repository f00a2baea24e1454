"""Compilation: cached by the text of its sources, and working without a cache."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    monkeypatch.setenv(jit.code_cache.CACHE_FOLDER_VARIABLE, str(tmp_path))
    jit._announce.cache_clear()
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
    monkeypatch.setenv(jit.code_cache.CACHE_FOLDER_VARIABLE, str(tmp_path / "cache"))
    compiled_twice()
    (tmp_path / "kernel.py").write_text("changed = True\n", encoding="utf-8")
    monkeypatch.setattr(jit, "ENGINE", tmp_path)
    compiled_twice()
    assert len(list((tmp_path / "cache" / "compiled").iterdir())) == 2


def truncated(file: Path) -> None:
    os.truncate(file, 0)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def foreign(file: Path) -> None:
    file.write_bytes(b"not a pickle")


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def unreadable_text(file: Path) -> None:
    file.write_text("[" * 100_000, encoding="utf-8")


@pytest.mark.parametrize("pattern", ["*.nbi", "*.nbc", "sha256.json"])
@pytest.mark.parametrize(
    "damage", [truncated, cut, flipped, foreign, a_folder, unreadable_text, Path.unlink]
)
def test_damaged_machine_code_is_compiled_anew(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pattern: str,
    damage: Callable[[Path], None],
) -> None:
    monkeypatch.setenv(jit.code_cache.CACHE_FOLDER_VARIABLE, str(tmp_path))
    compiled_twice()
    [file] = tmp_path.rglob(pattern)
    damage(file)
    with caplog.at_level(logging.WARNING):
        assert compiled_twice() == 42
    assert "damaged" in caplog.text
    again = jit.compiled(twice, SIGNATURE)
    assert sum(again.stats.cache_hits.values()) == 1
    # Nothing is left beside the whole folder.
    assert len(list(tmp_path.glob("compiled/*/*"))) == 1
    assert not list(tmp_path.glob("compiled/*/.*"))


def test_a_file_in_place_of_the_folder_of_a_function_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(jit.code_cache.CACHE_FOLDER_VARIABLE, str(tmp_path))
    compiled_twice()
    [folder] = tmp_path.glob("compiled/*/*")
    shutil.rmtree(folder)
    folder.write_text("a file", encoding="utf-8")
    assert compiled_twice() == 42
    assert folder.is_dir()


def test_a_full_disk_while_compiling_is_said_and_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv(jit.code_cache.CACHE_FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    with caplog.at_level(logging.WARNING):
        assert compiled_twice() == 42
    assert "No space left" in caplog.text
    assert not list(tmp_path.glob("compiled/*/*"))


def test_a_folder_that_others_may_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The files are pickles: whoever may write them may run code here."""
    monkeypatch.setenv(jit.code_cache.CACHE_FOLDER_VARIABLE, str(tmp_path))
    compiled_twice()
    for folder in (tmp_path, tmp_path / "compiled", *tmp_path.glob("compiled/*")):
        assert folder == tmp_path or folder.stat().st_mode & 0o077 == 0
        before = folder.stat().st_mode
        folder.chmod(0o777)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = jit.compiled(twice, SIGNATURE)
        assert found(21) == 42
        assert not found.stats.cache_hits
        assert "others may write" in caplog.text
        folder.chmod(before)


def test_what_a_killed_process_left_goes_after_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "function"
    for name, age_s in ((".function-old", 2 * jit.code_cache.ABANDONED_S), (".function-new", 0.0)):
        left = tmp_path / name
        left.mkdir()
        then = time.time() - age_s
        os.utime(left, (then, then))
    jit.code_cache.discard(jit.code_cache.draft(kept))
    assert [left.name for left in tmp_path.iterdir()] == [".function-new"]


def test_functions_without_a_file_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(jit.code_cache.CACHE_FOLDER_VARIABLE, str(tmp_path))
    names: dict[str, Any] = {"__name__": "typed_in"}
    exec("def thrice(number):\n    return 3 * number\n", names)
    assert jit.compiled(names["thrice"], SIGNATURE)(14) == 42


def test_it_works_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv(jit.code_cache.CACHE_FOLDER_VARIABLE, str(blocked))
    assert compiled_twice() == 42


def test_other_argument_types_are_refused() -> None:
    with pytest.raises(TypeError):
        jit.compiled(twice, SIGNATURE)("word")
