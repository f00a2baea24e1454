"""Objectives, registries and the errors for unknown names."""

from __future__ import annotations

import pytest

from instances.readers import READERS
from lemix_opt import Objective
from lemix_opt.errors import FieldError, LemixError, UnknownNameError
from lemix_opt.registry import Registry


def test_unknown_names_and_keywords_suggest_the_nearest() -> None:
    names: Registry[object] = Registry("thing", "no.such.group", {"queue": "queue:Queue"})
    assert names.names() == ["queue"]
    assert names.parameters("queue") == ("maxsize",)
    with pytest.raises(UnknownNameError, match="Did you mean 'queue'"):
        names.create("qeue")
    with pytest.raises(UnknownNameError, match=r"'max_size'.*Did you mean 'maxsize'"):
        names.create("queue", max_size=3)
    with pytest.raises(LemixError, match="registered already"):
        names.register("queue", object)


def test_levels_of_an_objective() -> None:
    assert Objective(makespan=1, idle=2).levels == (("makespan", "idle"),)
    order = Objective(late_penalty_s=1, inference_response=1, lexicographic=())
    assert order.levels == (("inference_response", "late"),)
    strict = Objective(
        late_penalty_s=1, inference_response=1, lexicographic=("late", "inference_response")
    )
    assert strict.levels == (("late",), ("inference_response",))


def test_objectives_that_make_no_sense_are_refused() -> None:
    with pytest.raises(FieldError, match="all weights are 0"):
        Objective()
    with pytest.raises(FieldError, match="makespan"):
        Objective(makespan=-1)
    with pytest.raises(UnknownNameError, match="makespan"):
        Objective(makespan=1, lexicographic=("makespam",))
    with pytest.raises(FieldError, match="lexicographic"):
        Objective(makespan=1, idle=1, lexicographic=("idle",))


def test_a_missing_keyword_is_named() -> None:
    with pytest.raises(LemixError, match="reader 'timeline': no 'columns'"):
        READERS.create("timeline", path="t.csv")
