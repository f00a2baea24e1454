"""Links of a study: what they cost, and what the table's head says of them."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.links import links_of
from experiments.study import Study, build
from lemix_opt import LemixError
from lemix_opt.grid import on_grid


def test_without_a_link_there_is_no_hop() -> None:
    problem = build(Study(load=0.9, tasks=20))
    assert problem.head["hop"] == "none"
    assert not problem.trace.instance.costs.hop_s.any()
    assert not problem.trace.actual.hop_s.any()


def test_predicted_hops_lie_on_the_grid_and_actual_ones_are_the_models() -> None:
    problem = build(Study(load=0.9, tasks=20, hop="within,across,within"))
    predicted, actual = problem.trace.instance.costs.hop_s, problem.trace.actual.hop_s
    assert on_grid(predicted, 0.001)
    assert np.all(predicted >= actual)
    assert np.all(actual > 0)
    assert np.all(actual[0, :, 1] > 2 * actual[0, :, 0])
    said = problem.head["hop"]
    assert said.startswith("within, across, within; ")
    assert "vidur" in said
    assert "held-out error" in said


def test_one_name_stands_for_all_links() -> None:
    assert links_of("across", 4).named == ("across",) * 3
    assert links_of("within", 1).named == ()
    assert build(Study(load=0.9, tasks=10, stages=1, hop="within")).trace.actual.hop_s.size == 0


@pytest.mark.parametrize(
    ("hop", "said"),
    [("witin", "Did you mean 'within'"), ("within,across", "2 links; expected 3"), ("", "link ''")],
)
def test_a_link_that_is_not_there_is_refused(hop: str, said: str) -> None:
    with pytest.raises(LemixError, match=said):
        build(Study(load=0.9, tasks=10, hop=hop))
