"""Integers are divided exactly, whatever their size and signs; shapes are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

ov = pytest.importorskip("openvino")

from trisect.runtime.engines import find_devices, load  # noqa: E402
from trisect.runtime.engines.openvino_parts.exact_division import divide_exactly  # noqa: E402

HEADER = '<ir_version: 10, opset_import: ["" : 18]>'


def integers(seed: int) -> np.ndarray:
    """Integers of all widths below 32 bits, and of both signs."""
    rng = np.random.default_rng(seed)
    values = (rng.integers(0, 1 << 31, 4000) | (1 << 30)) >> (31 - rng.integers(1, 32, 4000))
    return np.where(rng.random(4000) < 0.5, -values, values)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("y = Div(x, k)", lambda x, k: np.sign(x) * np.sign(k) * (np.abs(x) // np.abs(k))),
        ("y = Mod(x, k)", np.mod),
        ("y = Mod<fmod = 1>(x, k)", np.fmod),
    ],
)
def test_quotients_and_remainders_are_exact(node: str, expected: object, dtype: str) -> None:
    x, k = integers(0).astype(dtype), integers(1).astype(dtype)
    x[:4], k[:4] = (2**31 - 1, 1 - 2**31, 2**31 - 1, 0), (1, -1, 2**31 - 1, 7)
    x[4:500] = np.clip(k[4:500], -(2**29), 2**29) * (x[4:500] % 3)
    model = parser.parse_model(f"{HEADER} g ({dtype}[n] x, {dtype}[n] k) => ({dtype}[n] y) {{ {node} }}")
    module = load(model.SerializeToString(), find_devices("cpu:openvino")[0])
    np.testing.assert_array_equal(module.run({"x": x, "k": k})["y"], expected(x, k))  # type: ignore[operator]
    module.close()


def test_a_branch_divides_exactly_too() -> None:
    text = f"""{HEADER} g (bool c, int32[2] x, int32[2] k) => (int32[2] y) {{
        y = If (c) <then_branch = t () => (int32[2] a) {{ a = Div(x, k) }},
                    else_branch = e () => (int32[2] b) {{ b = Neg(x) }}>
    }}"""
    module = load(parser.parse_model(text).SerializeToString(), find_devices("cpu:openvino")[0])
    x, k = np.array([999999999, 50331651], np.int32), np.array([7, 3], np.int32)
    assert module.run({"c": np.array(True), "x": x, "k": k})["y"].tolist() == [142857142, 16777217]
    module.close()


def test_divisions_of_shapes_and_floats_are_left_alone() -> None:
    text = f"""{HEADER} g (float[n, 4] x) => (float[a, b] y) <int64[2] k = {{1, 2}}> {{
        s = Shape(x)  h = Div(s, k)  f = Div(x, x)  y = Reshape<allowzero = 1>(f, h)
    }}"""
    model = ov.Core().read_model(parser.parse_model(text).SerializeToString())
    before = len(model.get_ops())
    divide_exactly(model)
    assert len(model.get_ops()) == before
