"""Feeds that a model takes are passed on as they are; others are converted or refused."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trisect.runtime.tensors.tensor_spec import TensorSpec
from trisect.runtime.tensors.tensors import check_feeds, dtype_of


@given(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(["float32", "int64", "bool", "bfloat16", "object"]))
@settings(max_examples=40, deadline=None)
def test_what_fits_is_passed_on_unchanged(shape, dtype):
    array = np.zeros(shape, dtype_of(dtype))
    checked = check_feeds([TensorSpec("x", dtype, tuple(shape))], {"x": array})["x"]
    assert checked is array


def test_a_foreign_byte_order_is_converted():
    array = np.arange(3).astype(">f4")
    checked = check_feeds([TensorSpec("x", "float32", (3,))], {"x": array})["x"]
    assert checked.dtype == np.float32
    assert checked.dtype.isnative
    np.testing.assert_array_equal(checked, [0, 1, 2])


def test_unknown_rank_takes_any_shape():
    spec = TensorSpec("x", "float32", ("...",))
    assert check_feeds([spec], {"x": np.zeros((2, 2), np.float32)})["x"].shape == (2, 2)
