"""Which 64-bit values may be wide, and which floats infinite or NaN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.partitioner import small_models
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem.value_ranges import ValueRanges, value_ranges

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


@pytest.fixture
def ranges_of(tmp_path: Path):
    def read(text: str, weights=None, shapes=None, **assumptions) -> ValueRanges:
        path = small_models.write(tmp_path / "m.onnx", f"{HEAD} {text}", weights)
        return value_ranges(Graph.read(path, shapes), **assumptions)

    return read


def test_inputs_and_what_is_computed_from_them_may_be_wide(ranges_of):
    text = "g (int64[4] x, float[4] f) => (int64[4] y, int64[4] z) { a = Add(x, x) y = Neg(a) z = Cast<to=7>(f) }"
    assert ranges_of(text).wide == {"x", "a", "y", "z"}
    assert ranges_of(text, narrow=True).wide == frozenset()


def test_indices_sizes_and_flags_are_narrow(ranges_of):
    text = """g (float[4, 9] f, bool[4] b) => (int64[4] y, int64[4] z, int64[4] c, int64[4] w) {
        i = ArgMax<axis=1, keepdims=0>(f)
        one = Constant<value = int64 {1}>() big = Constant<value = int64 {5000000000}>()
        y = Add(i, one) z = Mul(y, y) c = Cast<to=7>(b) w = Mul(i, big) }"""
    assert ranges_of(text).wide == {"z", "w", "big"}  # z: the square of an index


def test_results_are_bounded_by_what_limits_them(ranges_of):
    text = """g (int64[4] x) => (int64[4] y, int64[4] m, int64[4] w) {
        low = Constant<value = int64 {0}>() high = Constant<value = int64 {100}>() y = Clip(x, low, high)
        m = Mod(x, high) u = Max(x, low) w = Sub(u, high) }"""
    assert ranges_of(text).wide == {"x", "u", "w"}


def test_doubles_and_unsigned_numbers_are_wide(ranges_of):
    text = """g (double[2] d, uint32[2] u, int32[2] i) => (double[2] x, uint32[2] v, int32[2] j) {
        x = Neg(d) v = Identity(u) j = Neg(i) }"""
    assert ranges_of(text).wide == {"d", "x", "u", "v"}


def test_infinities_come_from_constants_and_end_where_results_are_bounded(ranges_of):
    text = """g (float[2, 3] x, bool[2, 3] b) => (float[2, 3] y) {
        m = Where(b, x, low) n = Neg(m) s = Softmax(n) y = Relu(s) }"""
    special = ranges_of(text, {"low": np.array(-np.inf, np.float32)}).special
    assert special == {"low": "-", "m": "-", "n": "+-"}


def test_a_model_that_tests_for_nan_may_meet_it(ranges_of):
    text = "g (float[3] x) => (float[3] y) { n = IsNaN(x) y = Where(n, z, x) }"
    assert ranges_of(text, {"z": np.zeros(3, np.float32)}).special == {"x": "+-n", "y": "+-n"}
    plain = "g (float[3] x) => (float[3] y) { y = Relu(x) }"
    assert ranges_of(plain).special == {}
    assert ranges_of(plain, finite=False).special == {"x": "+-n", "y": "+-n"}
