""" "+" variants: rules kept to as many nodes as LeMix used."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.comparison import compare
from experiments.kept import check_names, create
from experiments.study import Study
from experiments.windows import ExactSettings
from lemix_opt.errors import FieldError, UnknownNameError

QUIET = Study(tasks=24, nodes=3, stages=2, load=0.1, training_share=0.2, seed=5)


def test_a_marked_policy_uses_the_nodes_that_lemix_used() -> None:
    names = ("mix-rr+", "lemix", "mix-rr", "shortest-response+")
    found = compare(QUIET, names, ExactSettings(time_limit_s=30), window=12)
    assert [row["name"] for row in found.run] == list(names)
    rows = {row["name"]: row for row in found.run}
    used = rows["lemix"]["nodes_used"]
    assert used < 3
    assert rows["mix-rr"]["nodes_used"] == 3
    for name in ("mix-rr+", "shortest-response+"):
        assert np.all(found.schedules[name].node < used)
        assert any(row["name"] == name for row in found.windows)


def test_wrong_names_are_refused() -> None:
    check_names(("lemix", "random+", "separate"))
    with pytest.raises(FieldError, match="'separate' cannot be kept"):
        check_names(("lemix", "separate+"))
    with pytest.raises(FieldError, match="'lemix' among the policies"):
        check_names(("random+",))
    with pytest.raises(UnknownNameError, match="Did you mean"):
        check_names(("lemix", "mixrr+"))
    assert create("mix-rr+", 2).nodes == 2  # type: ignore[attr-defined]
