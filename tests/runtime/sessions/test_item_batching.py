"""Items that are computed together give what each gives alone."""

from __future__ import annotations

import numpy as np
import pytest

from trisect.runtime.errors import InvalidInput
from trisect.runtime.sessions.item_batching import can_concatenate, concatenate, split_outputs
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import TensorSpec


def expected(x: np.ndarray) -> np.ndarray:
    return 2 * x * x + np.abs(x) + x


@pytest.mark.parametrize("micro_batch", [2, 3, 50])
@pytest.mark.parametrize("window", [1, 3])
def test_micro_batches_give_what_single_items_give(diamond, micro_batch, window):
    rng = np.random.default_rng(0)
    items = [{"x": rng.standard_normal((rows, 3)).astype(np.float32)} for rows in (1, 2, 1, 3, 1, 0, 2)]
    with Session(diamond) as session:
        outputs = list(session.stream(items, window, micro_batch=micro_batch))
        runs = len([event for event in session.trace.events if event.name == "segment 0"])
    assert runs == -(-len(items) // micro_batch)
    for item, out in zip(items, outputs, strict=True):
        np.testing.assert_allclose(out["y"], expected(item["x"]), rtol=1e-6)


def test_a_wrong_item_in_a_micro_batch_is_alone(diamond):
    items = [{"x": np.full((1, 3 if n != 3 else 4), n, np.float32)} for n in range(7)]
    with Session(diamond) as session:
        outputs = list(session.stream(items, micro_batch=4, on_error="yield"))
        assert [isinstance(out, InvalidInput) for out in outputs] == [n == 3 for n in range(7)]
        assert [out["y"][0, 0] for out in outputs if isinstance(out, dict)] == [
            expected(np.float32(n)) for n in range(7) if n != 3
        ]
        with pytest.raises(InvalidInput, match="micro_batch is 0"):
            session.stream(items, micro_batch=0)


def test_models_without_a_batch_dimension_are_not_batched(make_plan):
    spec = [TensorSpec("x", "float32", (1, 3))], [TensorSpec("y", "float32", (1, 3))]
    plan = make_plan([("cpu:ort", "g (float[1,3] x) => (float[1,3] y) { y = Neg(x) }")], *spec)
    with Session(plan) as session, pytest.raises(InvalidInput, match="cannot be batched: 'x'"):
        session.stream([], micro_batch=2)


def test_what_is_concatenated_is_split_again_into_copies():
    rng = np.random.default_rng(0)
    items = [{"x": rng.random((rows, 2)), "z": rng.random((rows,))} for rows in (1, 0, 3)]
    together = concatenate(items)
    parts = split_outputs(items, {"y": together["x"], "w": together["z"]})
    for item, part in zip(items, parts, strict=True):
        np.testing.assert_array_equal(part["y"], item["x"])
        np.testing.assert_array_equal(part["w"], item["z"])
        assert not np.shares_memory(part["y"], together["x"])


@pytest.mark.parametrize(("first", "other", "fits"), [
    ((2, 3), (5, 3), True), ((2, 3), (2, 4), False), ((2,), (3,), True), ((), (), False), ((2, 3), (), False),
])  # fmt: skip
def test_items_differ_in_their_first_dimension_only(first, other, fits):
    assert can_concatenate({"x": np.zeros(first)}, {"x": np.zeros(other)}) is fits
    assert not can_concatenate({"x": np.zeros(first)}, {"z": np.zeros(other)})


@pytest.mark.parametrize("output", [np.zeros((3, 1)), np.zeros(())])
def test_an_output_of_another_number_of_rows_cannot_be_split(output):
    items = [{"x": np.zeros((1, 2))}, {"x": np.zeros((1, 2))}]
    with pytest.raises(InvalidInput, match=r"output 'y' has the shape \(.*\), which cannot be split into items with 2"):
        split_outputs(items, {"y": output})
