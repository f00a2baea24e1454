"""Tables of recordings have their columns and types, or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lemix_opt import LemixError, Provenance, Recording, Table
from lemix_opt.recording import table


def test_what_is_left_out_is_unknown() -> None:
    spans = table("spans", {"start_s": [1.0], "end_s": [2.0]})
    assert spans["task"].tolist() == [-1]
    assert spans["name"].tolist() == [""]
    assert np.isnan(spans["bytes"][0])
    assert (spans.units["start_s"], spans.units["bytes"]) == ("s", "bytes")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"strat_s": [1.0]}, "Did you mean 'start_s'"),
        ({"start_s": ["a"]}, r"spans.start_s: entries of type"),
        ({"start_s": [np.inf]}, r"spans.start_s\[0\]: .* a finite number"),
        ({"task": [0.5]}, "spans.task: .* whole numbers"),
        ({"name": [None]}, r"spans.name\[0\]: None; expected text"),
        ({"task": [1], "node": [1, 2]}, "columns of equal length"),
    ],
)
def test_wrong_columns_are_named(columns: dict[str, Any], said: str) -> None:
    with pytest.raises(LemixError, match=said):
        table("spans", columns)


def test_a_recording_has_tables_of_its_layout_and_spans_that_go_forward() -> None:
    said = Provenance("recorded", "by hand")
    with pytest.raises(LemixError, match="spans: columns a; expected a table"):
        Recording(said, Table("spans", {"a": np.zeros(1)}))
    with pytest.raises(LemixError, match=r"spans.end_s\[1\]: end 1 s; expected at least"):
        Recording(said, table("spans", {"start_s": [0.0, 2.0], "end_s": [1.0, 1.0]}))
    with pytest.raises(LemixError, match="truth"):
        Provenance("real", "by hand")
