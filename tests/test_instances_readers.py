"""Readers on small files that always run, and on the real ones where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from instances.readers import read_azure, read_muxserve
from lemix_opt.errors import FileFormatError

DATA = Path(os.environ.get("LEMIX_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the measured data are neither in $LEMIX_DATA nor in ../shared/data"
)
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
MUX = "model,n_gpus,sm_pct,batch,seqlen,prefill_ms,decode_ms\n"


def test_arrivals_keep_their_gaps(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        AZURE + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,0\n"
    )
    table = read_azure(tmp_path / "a.csv")
    assert table["arrival_s"].tolist() == [0.0, 4.314579]
    assert table["ContextTokens"].tolist() == [374, 396]
    assert table.units["arrival_s"] == "s"


def test_missing_measurements_are_counted_not_filled(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(MUX + "x,1,100,1,32,,2.5\nx,1,100,2,32,3.5,\n")
    table = read_muxserve(tmp_path / "m.csv")
    assert table.missing == {"prefill_ms": 1, "decode_ms": 1}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("x,1,100,1,0,3,2", r":2: seqlen: value '0'"),
        ("x,1,100,1,32,nan,2", r":2: prefill_ms: value 'nan'"),
        ("x,1,100,1,32,inf,2", r":2: prefill_ms"),
        ("x,1,100,1,32,-3,2", r":2: prefill_ms"),
        ("x,1,100,1.5,32,3,2", r":2: batch: value '1.5'; expected a whole number"),
        ("x,1,100,1,32,3", ":2: 6 cells"),
        ("x,1,100,1,32,3ms,2", r"value '3ms'"),
        ("", "no rows"),
        ("x" * 200_000 + ",1,100,1,32,3,2", "field larger"),
    ],
)
def test_bad_cells_are_named(tmp_path: Path, row: str, said: str) -> None:
    (tmp_path / "m.csv").write_text(MUX + row)
    with pytest.raises(FileFormatError, match=said) as caught:
        read_muxserve(tmp_path / "m.csv")
    assert "m.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"TIMESTAMP,ContextToken,GeneratedTokens\n", "Did you mean 'ContextTokens'"),
        (b"TIMESTAMP,ContextTokens\n", "missing column 'GeneratedTokens'"),
        (AZURE.encode() + b"2023-11-16 18:15:46,\xff,1\n", "not UTF-8"),
        (AZURE.encode() + b"yesterday,5,1\n", "TIMESTAMP"),
        (AZURE.encode() + b"2023-11-16 18:15:46,5,1\n2023-11-16 18:15:45,5,1\n", "row 2"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(FileFormatError, match=said):
        read_azure(tmp_path / "a.csv")


@needs_data
def test_the_real_files_have_the_documented_rows() -> None:
    conv = read_azure(DATA / "requests" / "azure_llm_2023_conv.csv")
    assert conv.rows == 19_366
    mux = read_muxserve(DATA / "profiles" / "muxserve_llama_a100.csv")
    assert (mux.rows, dict(mux.missing)) == (5120, {"prefill_ms": 830, "decode_ms": 416})
