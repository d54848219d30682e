"""The tolerance follows the precision and the arithmetic of a model; integers have none."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from trisect.runtime.checks.tolerances import Tolerance, default_tolerance

QUANTISED = "q = QuantizeLinear(x, s)  y = DequantizeLinear(q, s)"
INSIDE = (
    "y = If (c) <then_branch = t () => (float[2] a) { q = QuantizeLinear(x, s)  a = DequantizeLinear(q, s) }, "
    "else_branch = e () => (float[2] b) { b = Neg(x) }>"
)


@pytest.mark.parametrize(
    ("body", "precision", "expected"),
    [
        ("y = Neg(x)", "float32", Tolerance(1e-3)),
        ("y = Neg(x)", "fast", Tolerance(5e-2)),
        ("h = Cast<to = 10>(x)  y = Cast<to = 1>(h)", "float32", Tolerance(1e-2)),
        ("w = DequantizeLinear(k, s)  y = Mul(x, w)", "float32", Tolerance(1e-2)),
        (QUANTISED, "float32", Tolerance(5e-2, of_largest=True)),
        (INSIDE, "float32", Tolerance(5e-2, of_largest=True)),
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
