"""Differences are infinite where values cannot be compared, and relative to the tolerance elsewhere."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest

from trisect.runtime.tensors.value_difference import ValueDifference, compare


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (np.zeros(2), np.zeros(3)),
        (np.array([nan]), np.array([0.0])),
        (np.array([inf]), np.array([1.0])),
        (np.array(["a"], object), np.array(["b"], object)),
        (np.array(["a"], object), np.zeros(1)),
        ([np.zeros(1)], []),
        ({"a": 1.0}, {"b": 1.0}),
        (None, np.zeros(1)),
    ],
)
def test_values_that_cannot_be_compared_differ_infinitely(actual: Any, expected: Any) -> None:
    assert compare(actual, expected, absolute=1.0, relative=1.0).worst == inf


@pytest.mark.parametrize(
    "value",
    [
        np.array([nan, inf, -inf, 0.0]),
        np.array([2**63 - 1, 2**62 + 1]),
        np.array(["a"], object),
        [np.zeros(2), None],
        {1: 0.5},
        np.zeros(0),
        None,
    ],
)
def test_equal_values_do_not_differ(value: Any) -> None:
    assert compare(value, value, absolute=0.0, relative=0.0) == ValueDifference(0.0, 0.0, 0.0)


def test_wide_integers_are_compared_exactly() -> None:
    expected = np.array([2**62], np.int64)
    assert compare(expected + 1, expected, absolute=0.0, relative=0.0).worst > 1


def test_the_worst_element_of_a_list_is_located() -> None:
    expected = [np.zeros(2), np.zeros((2, 2))]
    actual = [np.array([0.0, 0.1]), np.array([[0.0, 0.0], [0.5, 0.0]])]
    assert compare(actual, expected, absolute=0.25, relative=0.0) == ValueDifference(0.5, 0.5, 2.0, (1, 1, 0))
