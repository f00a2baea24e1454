"""Readers of one format name the other ones that people have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.study import Study, build
from instances.formats import named, named_file
from instances.readers import READERS
from lemix_opt import LemixError

MOONCAKE = '{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}\n'
BENCH = json.dumps({"date": "2", "backend": "vllm", "request_throughput": 0.6, "ttfts": [0.1]})
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
FILES = {
    "Mooncake": MOONCAKE * 2,
    "vLLM's benchmark": BENCH,
    "2024": AZURE + "2024-05-12 00:00:00.001163+00:00,1452,3\n2024-05-12 00:00:01+00:00,862,38\n",
    "multimodal": AZURE.replace(",C", ",NumImages,C") + "2024-10-15 00:00:00,2,210,5\n",
    "BurstGPT": "Timestamp,Model,Request tokens,Response tokens,Log Type\n5,x,1,2,y\n",
    "ShareGPT": '[{"id": "a", "conversations": []}]',
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("reader", ["azure", "vllm"])
def test_a_reader_names_the_format_that_it_sees(tmp_path: Path, name: str, reader: str) -> None:
    (tmp_path / "f").write_text(FILES[name])
    with pytest.raises(LemixError, match=f"It looks like .*{name}.* not read yet") as caught:
        READERS.create(reader, path=tmp_path / "f")
    assert "above" not in str(caught.value)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_comparison_names_the_format_of_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "f").write_text(FILES[name])
    with pytest.raises(LemixError, match=f"f' is a file, .*{name}.*; expected one of azure"):
        build(Study(requests=str(tmp_path / "f"), profile="muxserve_llama_a100"))


def test_stamps_that_go_back_are_named_with_their_line(tmp_path: Path) -> None:
    rows = "2023-11-16 18:15:50.99,374,44\n2023-11-16 18:15:46.68,396,109\n"
    (tmp_path / "f").write_text(AZURE + rows)
    with pytest.raises(LemixError, match=r"f:3: row 2: TIMESTAMP: .*Sort the rows"):
        READERS.create("azure", path=tmp_path / "f")
    (tmp_path / "f").write_text(AZURE + "yesterday,374,44\n")
    with pytest.raises(LemixError, match=r"f:2: row 1: TIMESTAMP: value 'yesterday'") as caught:
        READERS.create("azure", path=tmp_path / "f")
    assert "above" not in str(caught.value)


def test_separators_are_named_where_commas_are_wanted(tmp_path: Path) -> None:
    for separator, said in ((";", "';'"), ("\t", r"'\t'")):
        (tmp_path / "f").write_text(AZURE.replace(",", separator))
        with pytest.raises(LemixError, match="Cells are separated by") as caught:
            READERS.create("azure", path=tmp_path / "f")
        assert said in str(caught.value)
    (tmp_path / "f").write_text("sep=;\n" + AZURE)
    with pytest.raises(LemixError, match="Excel's line 'sep='"):
        READERS.create("azure", path=tmp_path / "f")


def test_what_is_unknown_has_no_name(tmp_path: Path) -> None:
    assert named("") == ""
    assert named("a,b\n1,2\n") == ""
    (tmp_path / "f").write_bytes(b"\xff\x00\xfe" * 3000)
    assert named_file(str(tmp_path / "f")) == ""
