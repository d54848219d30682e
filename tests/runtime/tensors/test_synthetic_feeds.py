"""Random feeds are reproducible, and a model can compute with them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from onnx import parser

from trisect.runtime.tensors.dtypes import dtype_of
from trisect.runtime.tensors.synthetic_feeds import generate_feeds, random_value
from trisect.runtime.tensors.tensor_spec import TensorSpec

LOOKUP = """<ir_version: 10, opset_import: ["" : 18]>
g (int64[n] ids, int64 length) => (float[n,2] y) <float[3,2] table = {1,2,3,4,5,6}> {
    rows = Gather(table, ids)  scale = Cast<to = 1>(length)  y = Mul(rows, scale)
}"""


@dataclass
class Inputs:
    inputs: tuple[TensorSpec, ...]
    shapes: dict[str, int] = field(default_factory=dict)


def test_indices_are_within_their_table_and_lengths_are_one() -> None:
    inputs = Inputs((TensorSpec("ids", "int64", ("n",)), TensorSpec("length", "int64", ())), {"n": 100})
    feeds = generate_feeds(parser.parse_model(LOOKUP), inputs)
    assert set(feeds["ids"].tolist()) == {0, 1, 2}
    assert feeds["length"] == 1
    again = generate_feeds(parser.parse_model(LOOKUP), inputs)
    np.testing.assert_array_equal(feeds["ids"], again["ids"])
    other = generate_feeds(parser.parse_model(LOOKUP), inputs, seed=1)
    assert not np.array_equal(feeds["ids"], other["ids"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int4", "uint2", "int64", "bool", "object", "complex64"])
@pytest.mark.parametrize("extremeness", [0, 1, 2])
def test_every_dtype_has_random_values(dtype: str, extremeness: int) -> None:
    value = random_value(dtype, (4, 8), np.random.default_rng(0), extremeness=extremeness)
    assert (value.shape, value.dtype) == ((4, 8), dtype_of(dtype))


def test_extreme_values_are_infinite_or_negative() -> None:
    rng = np.random.default_rng(0)
    assert np.isfinite(random_value("float32", (64,), rng)).all()
    assert not np.isfinite(random_value("float32", (64,), rng, extremeness=1)).all()
    assert random_value("int64", (64,), rng).max() == 1
    assert random_value("int64", (64,), rng, extremeness=2).min() < 0
    assert np.isneginf(random_value("float32", (2, 3), rng, extremeness=2)[-1]).all()


def test_numbers_are_wider_than_what_an_engine_may_compute_in() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]>
    g (int64[n] time, int32[n] count, int32[n] by, uint8[n] pixels) => (int64[n] a, int32[n] b, uint8[n] c) {
        a = Neg(time)  b = Div(count, by)  c = Identity(pixels)
    }"""
    dtypes = {"time": "int64", "count": "int32", "by": "int32", "pixels": "uint8"}
    inputs = Inputs(tuple(TensorSpec(name, dtype, ("n",)) for name, dtype in dtypes.items()), {"n": 100})
    feeds = generate_feeds(parser.parse_model(text), inputs)
    assert all(feeds[name].dtype == dtype for name, dtype in dtypes.items())
    assert feeds["time"].max() > 2**40
    assert feeds["time"].min() < -(2**40)
    assert np.abs(feeds["time"]).min() < 2**32
    assert np.abs(feeds["count"]).max() > 2**24
    assert feeds["by"].min() >= 1
    assert feeds["pixels"].max() > 128


def test_a_shape_fits_the_tensor_that_it_is_for() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]>
    g (float[2,12] x, int64[3] shape, float[4] scales) => (float[a,b,c] y, float[1,1,d,e] z) {
        y = Reshape(x, shape)  image = Reshape(x, shape)  z = Resize(image, , scales)
    }"""
    dtypes = {"x": ("float32", (2, 12)), "shape": ("int64", (3,)), "scales": ("float32", (4,))}
    inputs = Inputs(tuple(TensorSpec(name, *kind) for name, kind in dtypes.items()))
    feeds = generate_feeds(parser.parse_model(text), inputs)
    assert feeds["shape"].tolist() == [1, 1, 24]
    assert feeds["scales"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("dtype", ["float8_e8m0fnu", "float4_e2m1fn", "float8_e5m2", "float16"])
def test_small_floats_are_numbers(dtype: str) -> None:
    assert np.isfinite(random_value(dtype, (64,), np.random.default_rng(0)).astype(np.float32)).all()


def test_values_that_a_model_compares_with_occur() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]>
    g (int64 rate, int64[n] ids, float[n] x) => (float[n] y) <int64 fast = {16000}, int64 pad = {7}> {
        is_fast = Equal(fast, rate)  is_pad = Equal(ids, pad)  gain = Cast<to = 1>(is_fast)
        louder = Mul(x, gain)  hidden = Where(is_pad, x, louder)  y = Softmax(hidden)
    }"""
    specs = (TensorSpec("rate", "int64", ()), TensorSpec("ids", "int64", ("n",)), TensorSpec("x", "float32", ("n",)))
    feeds = generate_feeds(parser.parse_model(text), Inputs(specs, {"n": 100}))
    assert feeds["rate"] == 16000
    assert set(feeds["ids"].tolist()) == {0, 1, 7}
