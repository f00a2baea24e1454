"""Readers on small files that always run, and on the real ones where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from measured_data import DATA, needs_data

from instances import load
from instances.readers import READERS, read_azure, read_muxserve
from lemix_opt.errors import FileFormatError

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
        ("x,1,100,1e300,32,3,2", r":2: batch: value '1e300'; expected a whole number below 2"),
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
        (AZURE.encode() + b"2023-11-16 18:15:46+01:00,5,1\n", "TIMESTAMP"),
        (AZURE.encode() + b"2023-11-16 18:15:46." + b"9" * 30 + b",5,1\n", "TIMESTAMP"),
        (AZURE.encode() + b"2023-11-16 18:15:46,5,1\n2023-11-16 18:15:45,5,1\n", "row 2"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(FileFormatError, match=said):
        read_azure(tmp_path / "a.csv")


ROWS = {
    "aceso_op_times_memory": (16_128, 90),
    "azure_llm_2023_code": (8819, 0),
    "azure_llm_2023_conv": (19_366, 0),
    "fms_fine_tuning_a100": (449, 100),
    "gavel_isolated": (492, 4),
    "gavel_pairs": (10_338, 6576),
    "hh_rlhf_test_lengths": (5756, 0),
    "mpt_training_throughput": (216, 0),
    "muxserve_llama_a100": (5120, 830),
    "sailor_layer_times": (6493, 35),
    "splitwise_perf_model": (1260, 0),
    "vtrain_single_node": (1440, 0),
}


@needs_data
@pytest.mark.parametrize("name", ROWS)
def test_the_real_files_have_the_documented_rows(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    table = load(name)
    counted = {
        "ace": "forward-compute",
        "fms": "train_runtime",
        "gavel_i": "steps_per_s",
        "gavel_p": "steps_per_s1",
        "mux": "prefill_ms",
        "sai": "bwd_s",
    }
    column = next((c for start, c in counted.items() if name.startswith(start)), "")
    assert (table.rows, table.missing.get(column, 0)) == ROWS[name]


def test_a_source_code_for_missing_is_not_a_measurement(tmp_path: Path) -> None:
    head = "model,gpu,micro_batch,tp,layer,fwd_s,bwd_s,update_s\n"
    (tmp_path / "s.csv").write_text(head + "X,A,2,4,0,0.0035,0.0,0.0039\n")
    table = READERS.create("sailor", path=tmp_path / "s.csv")
    assert np.isnan(table["bwd_s"]).tolist() == [True]
    (tmp_path / "s.csv").write_text(head + "X,A,2,4,0,0,0.1,0.0039\n")
    with pytest.raises(FileFormatError, match=":2: fwd_s: value '0'; expected a number of more"):
        READERS.create("sailor", path=tmp_path / "s.csv")
