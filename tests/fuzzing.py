"""What the fuzz tests of readers share."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from lemix_opt import LemixError

PIECES = [
    *(b"", b"-1", b"nan", b"inf", b"1e999", b"9" * 30, b"0", b"null", b"[N/A]", b"-", b"\x00"),
    *(b"{", b"}", b"[", b"]", b'"', b",", b"\n", b"\xff", b"[" * 5000, b'{"a":' * 5000),
    *(
        b"\x1b[2J",
        b"\x00" * 40,
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b";",
        b"\t",
        b"sep=;",
        b"0,5",
        b"1e308",
    ),
    *("٣".encode(), "\u202e".encode(), b"x" * 5000, b"a," * 20_000, b"{}", b"4611686018427387904"),
    *(b"2024/10/27 02:30:00", b"0001-01-01 00:00:00", b"9999/12/31 23:59:59", "é".encode()),
]


def refusal(read: Callable[[], Any]) -> str | None:
    """Run a reader; return the message of its LemixError, or None when it read something."""
    try:
        read()
    except LemixError as error:
        said = str(error)
        assert said.isprintable()
        assert len(said) < 8000
        return said
    return None


def mutated(data: st.DataObject, content: bytes, lines: bool = True) -> bytes:
    """Change, cut, repeat or insert a few pieces of a file."""
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        to = min(len(content), at + data.draw(st.sampled_from([0, 1, 2, 7, 40])))
        put = data.draw(st.sampled_from(PIECES) | st.binary(max_size=4))
        how = data.draw(st.integers(0, 3))
        if how == 0:
            content = content[:at] + put + content[to:]
        elif how == 1:
            content = content[:to] + content[at:]
        elif how == 2:
            content = content[:at] if data.draw(st.integers(0, 3)) == 0 else content
        elif lines:
            rows = content.split(b"\n")
            row = data.draw(st.integers(0, len(rows) - 1))
            cells = rows[row].split(b",")
            cells[data.draw(st.integers(0, len(cells) - 1))] = put
            rows[row] = b",".join(cells)
            content = b"\n".join(rows)
    return content


def refused_by_name_or_read(read: Callable[[Path], Any], content: bytes, ending: str) -> str | None:
    """Read a file of some content: nothing but a LemixError that names it may come of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"fuzzed{ending}"
        path.write_bytes(content)
        said = refusal(lambda: read(path))
        assert said is None or "fuzzed" in said
        return said


def peak_bytes(read: Callable[[], Any]) -> int:
    """Return the most memory Python's allocators held while something was read."""
    tracemalloc.start()
    try:
        refusal(read)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
