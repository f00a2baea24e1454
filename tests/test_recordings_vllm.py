"""vLLM's logs: clocks, order of stamps, and what mutated files come to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fuzzing import mutated, peak_bytes, refused_by_name_or_read
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_data import DATA, needs_data
from profiles import examples

from instances.readers import READERS
from instances.recordings.vllm import read_vllm
from lemix_opt import LemixError, Recording

HEAD = "request_id,input_toks,output_toks,queued_ts,scheduled_ts,first_token_ts,last_token_ts\n"
LOG = HEAD + "a,20,3,100.5,100.75,101,103\nb,7,1,101.5,102,103,103\n"
SERIES = (
    "t,prompt_throughput,gen_throughput,running,waiting,kv_cache_pct\n1,30,2,5,2,13\n2,0,9,1,0,4\n"
)


def test_arrivals_are_queued_ts_from_the_first_on(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(LOG)
    (tmp_path / "t.csv").write_text(SERIES)
    found = READERS.create("vllm", path=tmp_path / "r.csv", timeseries=tmp_path / "t.csv")
    assert isinstance(found, Recording)
    requests, samples = found.requests, found.samples
    assert requests["queued_s"].tolist() == [0, 1]
    assert requests["last_token_s"].tolist() == [2.5, 2.5]
    waiting = samples["metric"] == "waiting_requests"
    assert samples["time_s"][waiting].tolist() == [1, 2]
    assert samples["value"][waiting].tolist() == [2, 0]
    assert found.provenance.truth == "recorded"
    assert "100.5" in found.provenance.clock
    assert sorted(found.provenance.inputs) == ["r.csv", "t.csv"]


def test_a_request_without_tokens_stays_without(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(LOG + "c,7,0,104,,,\n")
    found = read_vllm(tmp_path / "r.csv")
    assert np.isnan(found.requests["last_token_s"]).tolist() == [False, False, True]
    assert found.provenance.warnings == ("1 requests have no last token",)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("c,7,1,104,103,105,106", "row 3: scheduled_ts: value 103 of request 'c'; expected not"),
        ("c,7,1,104,,105,106", "row 3: first_token_ts: .* expected empty like scheduled_ts"),
        ("c,7,1,,105,105,106", ":4: queued_ts: value ''"),
        ("c,0,1,104,105,105,106", ":4: input_toks: value '0'"),
        ("c,7,1,104,105,105", ":4: 6 cells"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, row: str, said: str) -> None:
    (tmp_path / "r.csv").write_text(LOG + row + "\n")
    with pytest.raises(LemixError, match=said):
        read_vllm(tmp_path / "r.csv")


def test_what_is_odd_but_possible_is_reported(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(LOG + "a,20,3,100.5,100.75,101,103\n")
    said = read_vllm(tmp_path / "r.csv").provenance.warnings
    assert any(text.startswith("1 rows repeat the request_id") for text in said)


@pytest.mark.parametrize("count", ["9007199254740993", "1_0", "٣", "１"])
def test_a_count_is_what_was_written_or_refused(tmp_path: Path, count: str) -> None:
    (tmp_path / "r.csv").write_text(LOG + f"c,{count},1,104,105,105,106\n", encoding="utf-8")
    with pytest.raises(LemixError, match=":4: input_toks: value"):
        read_vllm(tmp_path / "r.csv")


def test_one_wide_cell_does_not_widen_all(tmp_path: Path) -> None:
    wide = "w" * 50_000 + ",7,1,104,105,105,106\n"
    (tmp_path / "r.csv").write_text(LOG + wide + "c,7,1,104,105,105,106\n" * 10_000)
    taken = peak_bytes(lambda: read_vllm(tmp_path / "r.csv"))
    assert taken < 2**25
    with pytest.raises(LemixError, match=":4: request_id: text of 50000 characters"):
        read_vllm(tmp_path / "r.csv")


@needs_data
def test_the_recorded_run() -> None:
    runs = DATA / "runs"
    found = read_vllm(
        runs / "vllm_rtx4090_llama3_8b_requests.csv", runs / "vllm_rtx4090_llama3_8b_timeseries.csv"
    )
    waited = found.requests["scheduled_s"] - found.requests["queued_s"]
    assert found.requests.rows == 300
    assert 55 < np.median(waited) < 65
    kv = found.samples["value"][found.samples["metric"] == "kv_cache_pct"]
    assert (kv > 96).mean() > 0.5
    assert any("arrival_time is of another clock" in said for said in found.provenance.warnings)


@given(st.data(), st.booleans())
@settings(max_examples=examples(150), deadline=None)
def test_mutated_logs(data: st.DataObject, of_requests: bool) -> None:
    content = mutated(data, (LOG if of_requests else SERIES).encode())
    if of_requests:
        refused_by_name_or_read(read_vllm, content, ".csv")
    else:
        requests = data.draw(st.just(LOG.encode()))

        def read(path: Path) -> Recording:
            (path.parent / "fuzzed-requests.csv").write_bytes(requests)
            return read_vllm(path.parent / "fuzzed-requests.csv", path)

        refused_by_name_or_read(read, content, ".csv")
