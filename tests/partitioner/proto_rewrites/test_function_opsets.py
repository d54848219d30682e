"""Functions are inlined at one version of each opset, where their operators mean the same in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from trisect.partitioner.graph.model_loading import load_model
from trisect.runtime.errors import InvalidModel, UnsupportedModel

X, Y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy")
CALL = helper.make_node("Mine", ["x"], ["y"], domain="mine")


def function(
    nodes: Sequence[onnx.NodeProto], version: int, name: str = "Mine", output: str = "b"
) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", version), helper.make_opsetid("mine", 1)]
    return helper.make_function("mine", name, ["a"], [output], nodes, opsets)


def operators(path: Path, version: int, *functions: onnx.FunctionProto) -> tuple[list[str], int]:
    """The model's operators after loading, and its opset."""
    opsets = [helper.make_opsetid("", version), helper.make_opsetid("mine", 1)]
    model = helper.make_model(helper.make_graph([CALL], "g", [X], [Y]), opset_imports=opsets, functions=functions)
    onnx.save(model, path / "m.onnx")
    loaded = load_model(path / "m.onnx")
    assert [value.name for value in (*loaded.graph.inputs, *loaded.graph.outputs)] == ["x", "y"]
    return [node.op_type for node in loaded.graph], loaded.graph.opset_imports[""]


@pytest.mark.parametrize("version", [13, 17, 21])
def test_older_and_newer_functions_take_the_opset_of_the_model(tmp_path: Path, version: int) -> None:
    body = [helper.make_node("Neg", ["a"], ["t"]), helper.make_node("Exp", ["t"], ["b"])]
    assert operators(tmp_path, 18, function(body, version)) == (["Neg", "Exp"], 18)


def test_a_model_may_take_the_opset_of_its_function(tmp_path: Path) -> None:
    # The axes of ReduceMax are an attribute up to opset 17; nothing else in the model depends on the version.
    body = [helper.make_node("ReduceMax", ["a"], ["b"], axes=[1])]
    names, opset = operators(tmp_path, 18, function(body, 17))
    assert names == ["ReduceMax"]
    assert opset < 18


def test_functions_whose_operators_exclude_each_other_are_refused_by_name(tmp_path: Path) -> None:
    new = [
        helper.make_node("Constant", [], ["i"], value_ints=[1]),
        helper.make_node("ReduceMax", ["a", "i"], ["b"]),
        helper.make_node("Inner", ["b"], ["c"], domain="mine"),
    ]
    old = [helper.make_node("ReduceMax", ["a"], ["b"], axes=[1])]
    with pytest.raises(UnsupportedModel, match=r"function 'Inner' uses the ReduceMax of version 17 of the domain"):
        operators(tmp_path, 18, function(new, 18, output="c"), function(old, 17, "Inner"))


def test_unused_functions_are_not_looked_at(tmp_path: Path) -> None:
    unused = function([helper.make_node("NoSuchOperator", ["a"], ["b"])], 3, "Unused")
    assert operators(tmp_path, 18, unused, function([helper.make_node("Neg", ["a"], ["b"])], 18)) == (["Neg"], 18)


def test_a_function_that_returns_its_input_keeps_the_names_of_the_model(tmp_path: Path) -> None:
    assert operators(tmp_path, 18, function([], 18, output="a")) == (["Identity"], 18)


def test_defaults_of_attributes_are_filled_in(tmp_path: Path) -> None:
    body = function([helper.make_node("LeakyRelu", ["a"], ["b"])], 18)
    reference = body.node[0].attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT)
    reference.ref_attr_name = "alpha"
    body.attribute_proto.append(helper.make_attribute("alpha", 0.25))
    operators(tmp_path, 18, body)
    node = next(iter(load_model(tmp_path / "m.onnx").graph))
    assert np.float32(node.attributes["alpha"].as_float()) == np.float32(0.25)


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ([function([helper.make_node("Add", ["a", "outer"], ["b"])], 18)], "tensor 'outer' is read but never computed"),
        ([function([helper.make_node("Neg", ["a"], ["c"])], 18)], "tensor 'b' is read but never computed"),
        ([function([helper.make_node("Neg", ["a"], ["b"])], 18)] * 2, "is defined twice"),
    ],
)
def test_broken_functions_are_named(tmp_path: Path, functions: list[onnx.FunctionProto], message: str) -> None:
    with pytest.raises(InvalidModel, match=rf"m\.onnx: function 'Mine'.*{message}"):
        operators(tmp_path, 18, *functions)


def test_a_call_may_leave_out_outputs(tmp_path: Path) -> None:
    body = [helper.make_node("Neg", ["a"], ["b"]), helper.make_node("Abs", ["a"], ["c"])]
    both = helper.make_function("mine", "Mine", ["a"], ["b", "c"], body, [helper.make_opsetid("", 18)])
    assert operators(tmp_path, 18, both) == (["Neg", "Abs"], 18)
