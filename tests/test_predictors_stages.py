"""Layers by stage: every stage has its share, and all of them are the whole model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instances import generate
from lemix_opt.errors import FieldError
from predictors import estimate_costs, load_calibration
from predictors.memory import STATE_BYTES, held_bytes, resident_bytes
from predictors.model_shapes import SHAPES, model_shape
from predictors.stages import layers_by_stage


@st.composite
def splits(draw: st.DrawFn) -> tuple[str, int, tuple[int, ...] | None]:
    """Draw a model, a number of stages and, for some, explicit layers."""
    name = draw(st.sampled_from(sorted(SHAPES)))
    stages = draw(st.integers(1, 9))
    if draw(st.booleans()):
        return name, stages, None
    total = SHAPES[name].layers
    inner = st.integers(1, total - 1)
    cuts = draw(st.lists(inner, min_size=stages - 1, max_size=stages - 1, unique=True))
    ends = [0, *sorted(cuts), total]
    return name, stages, tuple(np.diff(ends).tolist())


@settings(max_examples=60, deadline=None)
@given(splits(), st.sampled_from(sorted(STATE_BYTES)), st.integers(0, 99))
def test_sums_over_stages_are_the_whole_model(
    split: tuple[str, int, tuple[int, ...] | None], optimizer: str, seed: int
) -> None:
    name, stages, layers = split
    shape, work = model_shape(name), generate(8, training_share=0.5, seed=seed)
    model = load_calibration("llama-7b-a100").time_model()
    costs = estimate_costs(
        work,
        model,
        shape,
        stages=stages,
        optimizer=optimizer,
        backward_ratio=2.0,
        tick_s=None,
        layers=layers,
    )
    whole = model.predict(np.column_stack([work.batch, work.prompt_tokens]))
    training = work.is_training
    assert costs.forward_s[0].sum(axis=1) == pytest.approx(whole)
    assert costs.backward_s[0].sum(axis=1) == pytest.approx(2 * whole * training)
    assert costs.resident_bytes.sum() == pytest.approx(STATE_BYTES[optimizer] * shape.parameters)
    tokens = work.batch * work.prompt_tokens
    held = costs.held_bytes[0].sum(axis=1)
    kept = 34 * shape.hidden * shape.layers * tokens
    # One layer's working set is needed on every stage.
    served = (shape.kv_bytes_per_token + stages * 2 * (2 * shape.hidden + shape.intermediate)) * (
        tokens
    )
    assert held == pytest.approx(np.where(training, kept, served))


def test_what_does_not_divide_goes_to_the_first_stages() -> None:
    shape = model_shape("llama-13b")
    assert layers_by_stage(shape, 3).tolist() == [14, 13, 13]
    assert layers_by_stage(shape, 7).tolist() == [6, 6, 6, 6, 6, 5, 5]
    assert layers_by_stage(shape, 3, (10, 20, 10)).tolist() == [10, 20, 10]


def test_seconds_and_bytes_follow_the_layers_by_hand() -> None:
    shape, work = model_shape("llama-7b"), generate(4, training_share=0.5, seed=1)
    model = load_calibration("llama-7b-a100").time_model()
    costs = estimate_costs(work, model, shape, stages=2, tick_s=None, layers=(24, 8))
    assert costs.forward_s[0, :, 0] == pytest.approx(3 * costs.forward_s[0, :, 1])
    assert costs.backward_s[0, :, 0] == pytest.approx(3 * costs.backward_s[0, :, 1])
    held = held_bytes(shape, 2, np.array([10]), np.array([True]), (24, 8))
    assert held.tolist() == [[34 * 4096 * 24 * 10, 34 * 4096 * 8 * 10]]
    matrix = 32000 * 4096
    body = 6.7e9 - 2 * matrix
    assert resident_bytes(shape, 2, "none", (24, 8)) == pytest.approx(
        [2 * (0.75 * body + matrix), 2 * (0.25 * body + matrix)]
    )


def test_a_tied_head_is_counted_once_with_the_embedding() -> None:
    shape = model_shape("bloom-176b")
    first, last = resident_bytes(shape, 2, "none")
    assert first - last == pytest.approx(2 * 250880 * 14336)


@pytest.mark.parametrize(
    ("stages", "layers", "said"),
    [
        (33, None, "at most the 32 layers"),
        (0, None, "stages"),
        (2, (16, 15), "31 layers.*the 32 layers of llama-7b"),
        (2, (32, 0), "at least 1"),
        (3, (16, 16), "shape"),
        (2, (16.5, 15.5), "whole number"),
    ],
)
def test_layers_that_are_not_the_models_are_refused(
    stages: int, layers: tuple[int, ...] | None, said: str
) -> None:
    with pytest.raises(FieldError, match=said):
        layers_by_stage(model_shape("llama-7b"), stages, layers)
