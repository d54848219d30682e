"""Indices and arguments are recognised behind casts and reshapes, and in control flow."""

from __future__ import annotations

import pytest
from onnx import parser

from trisect.runtime.tensors.input_roles import DataFlow, InputRole
from trisect.runtime.tensors.tensor_spec import TensorSpec

TABLE = "float[3,2] table = {1,2,3,4,5,6}"


@pytest.mark.parametrize(
    ("inputs", "body", "expected"),
    [
        ("int64[4] x", "y = Gather(table, x)", InputRole(limit=3)),
        ("int64[4] x", "y = Gather<axis = -1>(table, x)", InputRole(limit=2)),
        ("int32[4] x", "c = Cast<to = 7>(x) s = Unsqueeze(c, zero) y = Gather(table, s)", InputRole(limit=3)),
        ("float[4] x", "c = Cast<to = 7>(x) y = Gather(table, c)", InputRole(limit=3)),
        ("int64[4] x", "a = Gather(table, x) b = Gather<axis = 1>(table, x) y = Add(a, b)", InputRole(limit=2)),
        ("float[9,2] z, int64[4] x", "y = Gather(z, x)", InputRole(limit=9)),
        ("int64[4,2] x", "y = GatherND(table, x)", InputRole(limit=2)),
        ("int64[4] x", "y = OneHot(x, depth, pair)", InputRole(limit=7)),
        ("int64[2] x, float[24] z", "y = Reshape(z, x)", InputRole(None, "shape", (24,))),
        ("float[24] z, int64[1] x", "y = Slice(z, zero, x)", InputRole(None, "end", (24,))),
        ("float[24] z, int64[1] x", "y = Slice(z, x, depth)", InputRole(None, "zeros", (24,))),
        ("float[2,2] z, int64[1] x", "y = ReduceSum(z, x)", InputRole(None, "count", (2, 2))),
        ("float[2,2] z, int64 x", "y = Add(z, x)", InputRole()),
    ],
)  # fmt: skip
def test_roles(inputs: str, body: str, expected: InputRole) -> None:
    constants = f"{TABLE}, int64[1] zero = {{0}}, int64[1] depth = {{7}}, float[2] pair = {{0, 1}}"
    text = f'<ir_version: 10, opset_import: ["" : 18]> g ({inputs}) => (float[n] y) <{constants}> {{ {body} }}'
    model = parser.parse_model(text)
    specs = [
        TensorSpec(value.name, "float32", tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim))
        for value in model.graph.input
    ]
    assert DataFlow(model, specs, {}).role("x") == expected


def test_indices_inside_a_branch_are_recognised() -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    g (bool c, int64[4] x) => (float[n] y) <{TABLE}> {{
        y = If (c) <then_branch = t () => (float[n] a) {{ a = Gather(table, x) }},
                    else_branch = e () => (float[n] b) {{ b = Cast<to = 1>(x) }}>
    }}"""
    assert DataFlow(parser.parse_model(text), [TensorSpec("x", "int64", (4,))], {}).role("x").limit == 3
