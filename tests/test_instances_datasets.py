"""The dataset registry, against a local HTTP server."""

from __future__ import annotations

import gc
import hashlib
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from measured_data import DATA, needs_data

from instances import datasets
from instances.datasets import Dataset, fetch, load, load_recording, locate
from lemix_opt.errors import DatasetError, UnknownNameError, UnsupportedError

CONTENT = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("LEMIX_DATA", raising=False)
    monkeypatch.setattr(datasets, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "trace.csv").write_bytes(CONTENT)
    handler = partial(_Quiet, directory=str(tmp_path / "www"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
    # The download library leaves sockets of failed requests to the garbage collector.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _wanted(address: str, content: bytes = CONTENT) -> Dataset:
    digest = hashlib.sha256(content).hexdigest()
    return Dataset("requests/trace.csv", len(content), digest, "MIT", f"{address}/trace.csv")


def test_a_download_is_checked_and_kept(cache: Path, address: str) -> None:
    assert locate(_wanted(address)) is None
    first = fetch(_wanted(address))
    assert (first.where, first.path.read_bytes()) == ("downloaded", CONTENT)
    assert first.path == cache / "requests" / "trace.csv"
    assert fetch(_wanted("http://127.0.0.1:1")).where == "cache"


def test_a_download_that_differs_is_refused(cache: Path, address: str) -> None:
    with pytest.raises(DatasetError, match="does not hold the file"):
        fetch(_wanted(address, b"other"))
    assert not list(cache.rglob("*.csv"))


@pytest.mark.parametrize("where", ["http://127.0.0.1:1", "{address}/none"])
def test_offline_names_file_address_and_variable(cache: Path, address: str, where: str) -> None:
    wanted = _wanted(where.format(address=address))
    with pytest.raises(DatasetError) as caught:
        fetch(wanted)
    for part in ("requests/trace.csv", wanted.address, "LEMIX_DATA"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_variable_is_looked_at_first(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(tmp_path))
    (tmp_path / "trace.csv").write_bytes(CONTENT)
    found = fetch(_wanted("http://127.0.0.1:1"))
    assert (found.where, found.path) == ("$LEMIX_DATA", tmp_path / "trace.csv")
    (tmp_path / "trace.csv").write_bytes(b"changed")
    with pytest.raises(DatasetError, match=r"trace\.csv: SHA-256"):
        fetch(_wanted("http://127.0.0.1:1"))


def test_a_derived_file_says_how_it_is_built(cache: Path) -> None:
    with pytest.raises(DatasetError, match=r"Build it from hao-ai-lab/MuxServe.*flattened"):
        load("muxserve_llama_a100")


def test_names_are_checked(cache: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'azure_llm_2023_conv'"):
        load("azure_llm_2023_cov")
    with pytest.raises(UnsupportedError, match="no reader yet"):
        load("sailor_layer_memory")


def test_every_entry_is_complete() -> None:
    for name, entry in datasets.datasets().items():
        assert entry.bytes > 0, name
        assert len(entry.sha256) == 64, name
        assert entry.licence, name
        assert bool(entry.address) != bool(entry.recipe), name
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"file": "x", "hash": 1}', type=Dataset)


@needs_data
def test_recordings_are_loaded_by_name_and_are_no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEMIX_DATA", str(DATA))
    assert load_recording("vllm_rtx4090_llama3_8b_requests").requests.rows == 300
    with pytest.raises(UnsupportedError, match="is a recording"):
        load("vllm_rtx4090_llama3_8b_requests")
    with pytest.raises(UnsupportedError, match="is no recording; expected a100_ddp_training_rank0"):
        load_recording("azure_llm_2023_conv")
