"""The tolerance follows the precision and the arithmetic of a model; integers have none."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from trisect.runtime.checks.tolerances import Tolerance, default_tolerance
from trisect.runtime.tensors.dtypes import dtype_of

QUANTISED = "q = QuantizeLinear(x, s)  y = DequantizeLinear(q, s)"
INSIDE = (
    "y = If (c) <then_branch = t () => (float[2] a) { q = QuantizeLinear(x, s)  a = DequantizeLinear(q, s) }, "
    "else_branch = e () => (float[2] b) { b = Neg(x) }>"
)


@pytest.mark.parametrize(
    ("body", "precision", "expected"),
    [
        ("y = Neg(x)", "float32", Tolerance(1e-3, allows_a_step=True)),
        ("y = Neg(x)", "fast", Tolerance(5e-2, allows_a_step=True)),
        ("h = Cast<to = 10>(x)  y = Cast<to = 1>(h)", "float32", Tolerance(1e-2, allows_a_step=True)),
        ("w = DequantizeLinear(k, s)  y = Mul(x, w)", "float32", Tolerance(1e-2, allows_a_step=True)),
        (QUANTISED, "float32", Tolerance(5e-2, of_largest=True, allows_a_step=True)),
        (INSIDE, "float32", Tolerance(5e-2, of_largest=True, allows_a_step=True)),
    ],
)
def test_default_tolerance(body: str, precision: str, expected: Tolerance) -> None:
    constants = "float s = {0.1}, int8[2] k = {1, 2}"
    text = (
        f'<ir_version: 10, opset_import: ["" : 21]> g (float[2] x, bool c) => (float[2] y) <{constants}> {{ {body} }}'
    )
    assert default_tolerance(parser.parse_model(text), precision) == expected


def test_the_absolute_part_may_be_relative_to_the_largest_value() -> None:
    values = np.array([np.inf, -20.0, 0.0, np.nan], np.float32)
    assert Tolerance(0.05, of_largest=True).absolute(values) == pytest.approx(1.0)
    assert Tolerance(0.05).absolute(values) == 0.05
    assert Tolerance(0.05, of_largest=True).absolute([values]) == 0.05


@pytest.mark.parametrize(
    ("dtype", "relative"), [("float8_e4m3fn", 0.125), ("bfloat16", 2.0**-7), ("float16", 1e-3), ("int8", 1e-3)]
)
def test_a_small_float_may_be_the_next_one(dtype: str, relative: float) -> None:
    values = np.ones(2).astype(dtype_of(dtype))
    assert Tolerance(1e-3, allows_a_step=True).relative(values) == relative
    assert Tolerance(1e-3).relative(values) == 1e-3
