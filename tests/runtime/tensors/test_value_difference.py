"""Differences are infinite where values cannot be compared, and relative to the tolerance elsewhere."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import ml_dtypes
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
        (np.zeros(1, np.float32), np.zeros(1)),
        (np.zeros(1, np.int32), np.zeros(1, np.int64)),
        (np.zeros(1, bool), np.zeros(1, np.int8)),
        ([np.zeros(1), np.zeros(2)], np.zeros(3)),
        ({"a": 1}, {"a": 1.0}),
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


@pytest.mark.parametrize(
    ("actual", "expected", "off", "where"),
    [
        (np.array([142857136, 16777218]), np.array([142857142, 16777217]), 6, (0,)),
        (np.array([[0, 2**64 - 1]], np.uint64), np.zeros((1, 2), np.uint64), 2.0**64, (0, 1)),
        (np.array([-(2**63)]), np.array([2**63 - 1]), 2.0**64, (0,)),
        (np.array([True, False]), np.array([True, True]), 1, (1,)),
        (np.array([1, -3]).astype(ml_dtypes.int4), np.array([1, 2]).astype(ml_dtypes.int4), 5, (1,)),
        (np.array([7, 200], np.uint8), np.array([7, 201], np.uint8), 1, (1,)),
    ],
)
def test_integers_and_booleans_have_no_tolerance(
    actual: np.ndarray, expected: np.ndarray, off: float, where: tuple[int, ...]
) -> None:
    difference = compare(actual, expected, absolute=1e3, relative=1e3)
    assert (difference.max_abs, difference.worst, difference.where) == (off, inf, where)


def test_strings_of_bytes_and_of_text_are_the_same_text() -> None:
    text = np.array([["ö", "b"]], object)
    assert compare(np.array([["ö".encode(), b"b"]], object), text, absolute=0.0, relative=0.0).worst == 0
    assert compare(np.array([["ö", "c"]]), text, absolute=9.0, relative=9.0).where == (0, 1)


def test_the_worst_element_of_a_list_is_located() -> None:
    expected = [np.zeros(2), np.zeros((2, 2))]
    actual = [np.array([0.0, 0.1]), np.array([[0.0, 0.0], [0.5, 0.0]])]
    assert compare(actual, expected, absolute=0.25, relative=0.0) == ValueDifference(0.5, 0.5, 2.0, (1, 1, 0))
