"""A file is written whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lemix_opt.errors import FieldError, FileFormatError, LemixError
from lemix_opt.files import read_content, text_content, write_atomically


def test_content_and_rights_are_those_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(LemixError, match=r"none: no such folder"):
        write_atomically(tmp_path / "none" / "file", b"")


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_what_is_no_regular_file_is_written_to_and_stays(tmp_path: Path) -> None:
    # A link in place of /dev/null itself, which a failing test would replace.
    (tmp_path / "null").symlink_to("/dev/null")
    write_atomically(tmp_path / "null", b"new")
    assert (tmp_path / "null").is_char_device()
    os.mkfifo(tmp_path / "pipe")
    end = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", b"new")
    assert os.read(end, 10) == b"new"
    os.close(end)


def test_a_folder_is_no_file_to_write_and_names_may_be_long(tmp_path: Path) -> None:
    with pytest.raises(LemixError, match="is a folder"):
        write_atomically(tmp_path, b"new")
    write_atomically(tmp_path / ("n" * 255), b"new")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"new"


def test_a_process_that_is_killed_or_has_no_room_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    write = (
        "import os, resource, signal, sys\n"
        "from lemix_opt.files import write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "if sys.argv[1] == 'full':\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "else:\n"
        "    os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically('file', bytes(10**6))\n"
    )
    for how, code in (("full", 1), ("killed", -9)):
        run = subprocess.run(
            [sys.executable, "-c", write, how],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            check=False,
        )
        assert (run.returncode, how == "killed" or b"OSError" in run.stderr) == (code, True)
        assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("what", ["/dev/zero", "folder", "pipe", "absent", "n" * 300, "a\0b"])
def test_what_cannot_be_read_whole_is_refused_at_once(tmp_path: Path, what: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileFormatError, match=r"expected a table"):
        read_content(tmp_path / what, "a table", 10)


@pytest.mark.parametrize("limit", [-1, 0, 1.5, float("nan"), 2**70])
def test_a_limit_is_a_whole_number(tmp_path: Path, limit: float) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with pytest.raises(FieldError, match="max_bytes"):
        read_content(tmp_path / "file", "a table", limit)  # type: ignore[arg-type]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_line_of_a_bad_byte_is_the_real_one(tmp_path: Path, end: bytes, mark: bytes) -> None:
    rows = [b"a,b", *[b"1,2"] * 25, b"1,\xe9", *[b"1,2"] * 137]
    (tmp_path / "t.csv").write_bytes(mark + end.join(rows) + end)
    with pytest.raises(FileFormatError, match=r"t.csv:27: byte .*0xe9.*not UTF-8.*iconv"):
        text_content(tmp_path / "t.csv", "text", 2**20)


def test_text_in_utf_16_is_read_and_cut_text_is_named(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        (tmp_path / "t.csv").write_bytes("a,b\n1,é\n".encode(encoding))
        assert text_content(tmp_path / "t.csv", "text", 100) == "a,b\n1,é\n"
    (tmp_path / "t.csv").write_bytes("a,b\n1,2\n".encode("utf-16")[:-1])
    with pytest.raises(FileFormatError, match=r"t.csv:2: .*UTF-16 does, and is damaged or cut"):
        text_content(tmp_path / "t.csv", "text", 100)
    (tmp_path / "t.csv").write_bytes(b"\x1f\x8b\x08\x00\x00\xff")
    with pytest.raises(FileFormatError, match=r"end in \.gz"):
        text_content(tmp_path / "t.csv", "text", 100)


def test_a_file_that_is_too_large_names_what_admits_more(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"x" * 100)
    with pytest.raises(FileFormatError, match=r"at most 10.*--set max_bytes=N"):
        text_content(tmp_path / "t.csv", "text", 10)
