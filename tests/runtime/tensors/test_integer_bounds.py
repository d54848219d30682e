"""Integers are as large as what is computed from them allows, and small where they mean something else."""

from __future__ import annotations

import pytest
from onnx import parser

from trisect.runtime.tensors.input_roles import DataFlow
from trisect.runtime.tensors.integer_bounds import IntegerBound, integer_bound
from trisect.runtime.tensors.tensor_spec import TensorSpec


def bound(body: str, dtype: str = "int64", others: str = "") -> IntegerBound | None:
    constants = f"{dtype}[1] k = {{7}}, float[1] one = {{1}}, float[1] low = {{-10000}}"
    text = (
        f'<ir_version: 10, opset_import: ["" : 18]> g ({dtype}[8] x{others}) => (float[n] y) <{constants}> {{ {body} }}'
    )
    return integer_bound(DataFlow(parser.parse_model(text), [TensorSpec("x", dtype, (8,))], {}), "x", dtype)


@pytest.mark.parametrize(
    ("body", "dtype", "expected"),
    [
        ("y = Div(x, k)", "int32", IntegerBound(2**31 - 1)),
        ("y = Transpose(x)", "int64", IntegerBound(2**63 - 1)),
        ("y = Mul(x, x)", "int64", IntegerBound(2**31 - 1)),
        ("y = Mul(x, k)", "int32", IntegerBound(2**28 - 1)),
        ("a = Add(x, x) y = Add(a, a)", "int32", IntegerBound(2**29 - 1)),
        ("y = Cast<to = 6>(x)", "int64", IntegerBound(2**31 - 1)),
        ("y = Cast<to = 1>(x)", "int64", IntegerBound(2**63 - 1, becomes_float=True)),
        ("y = Cast<to = 10>(x)", "int32", IntegerBound(2**14 - 1, becomes_float=True)),
        ("y = Div(k, x)", "int32", IntegerBound(2**31 - 1, is_divisor=True)),
        ("y = ReduceSum(x)", "int32", IntegerBound(2**28 - 1)),
        ("l = Less(x, k) y = Where(l, x, k)", "int32", IntegerBound(2**31 - 1)),
        ("y = Add(x, k)", "uint8", IntegerBound(2**7 - 1)),
    ],
)
def test_numbers_reach_as_far_as_nothing_overflows(body: str, dtype: str, expected: IntegerBound) -> None:
    assert bound(body, dtype) == expected


@pytest.mark.parametrize(
    "body",
    [
        "c = Cast<to = 1>(x) m = Sub(one, c) a = Mul(m, low) y = Softmax(a)",  # a mask
        "l = Less(x, k) c = Cast<to = 1>(l) y = Softmax(c)",  # a length
        "a = Add(x, k) y = Gather(low, a)",
        "y = ConstantOfShape(x)",
        "d = Sub(x, k) y = Div(k, d)",  # perhaps by 0
        "y = Shape(x)",
        "y = com.example.Unknown(x)",
    ],
)
def test_values_that_mean_something_else_are_left_alone(body: str) -> None:
    assert bound(body) is None


def test_narrow_numbers_stay_within_32_bits() -> None:
    text = '<ir_version: 10, opset_import: ["" : 18]> g (int64[8] x) => (int64[n] y) { a = Add(x, x)  y = Neg(a) }'
    flow = DataFlow(parser.parse_model(text), [TensorSpec("x", "int64", (8,))], {})
    assert integer_bound(flow, "x", "int64", narrow=True) == IntegerBound(2**30 - 1)
