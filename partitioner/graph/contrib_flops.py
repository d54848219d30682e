"""FLOPs of operators that few models have: mixtures of experts, fused projections, regions, trees, transforms."""

from __future__ import annotations

from math import prod

import numpy as np

from .op_call import Call, Rule, rules_into

RULES: dict[str, Rule] = {}
_rule = rules_into(RULES)


@_rule("MoE", "QMoE")
def _experts(call: Call) -> float:
    """Each token goes through `k` experts: two products, three where the activation has a gate of its own."""
    tokens = prod(call.input(0)[:-1])
    hidden = call.input(0)[-1] if call.input(0) else 1
    third = 6 if call.op_type == "MoE" else 8
    # [experts, width inside, hidden]
    inner = call.input(2)[1] if len(call.input(2)) == 3 else hidden
    gated = len(call.inputs) > third and call.inputs[third] is not None
    inside = inner // 2 if call.attributes.get("swiglu_fusion") else inner
    per_token = 2 * hidden * inner * (2 if gated else 1) + 2 * inside * hidden
    return int(call.attributes.get("k", 1)) * tokens * per_token


@_rule("MatMulNBitsMlp")
def _gate_and_up(call: Call) -> float:
    rows = prod(call.input(0)[:-1])
    return 2 * 2 * rows * int(call.attributes["K"]) * int(call.attributes["N"])


@_rule("MatMulNBitsQkv")
def _three_projections(call: Call) -> float:
    width = int(call.attributes["Nq"]) + 2 * int(call.attributes["Nkv"])
    return 2 * prod(call.input(0)[:-1]) * int(call.attributes["K"]) * width


@_rule("CDist")
def _distances(call: Call) -> float:
    return 3 * call.written * (call.input(0)[-1] if call.input(0) else 1)


@_rule("Det", "Inverse")
def _elimination(call: Call) -> float:
    shape = call.input(0)
    size = shape[-1] if shape else 1
    return (2 if call.op_type == "Inverse" else 2 / 3) * prod(shape) * size


@_rule("Rfft", "Irfft")
def _transform(call: Call) -> float:
    length = max(call.input(0) or (1,))
    return 5 * prod(call.input(0)) / 2 * max(1, length.bit_length() - 1)


@_rule("RoiAlign", "CropAndResize")
def _regions(call: Call) -> float:
    # Four neighbours for each sample; a grid of samples for each cell, 2 x 2 where the file leaves it open.
    samples = int(call.attributes.get("sampling_ratio", 0)) or 2
    return 8 * call.written * (samples**2 if call.op_type == "RoiAlign" else 1)


@_rule("Col2Im", "CumProd", "GlobalLpPool")
def _each_input(call: Call) -> float:
    return (2 if call.op_type == "GlobalLpPool" else 1) * prod(call.input(0))


@_rule("Sum", "Mean", "Max", "Min")
def _variadic(call: Call) -> float:
    return call.written * max(1, len(call.inputs) - 1)


@_rule("LinearClassifier", "LinearRegressor")
def _linear(call: Call) -> float:
    rows = call.input(0)[0] if len(call.input(0)) > 1 else 1
    return 2 * rows * len(call.attributes.get("coefficients", ()))


@_rule("SVMClassifier", "SVMRegressor")
def _support_vectors(call: Call) -> float:
    rows = call.input(0)[0] if len(call.input(0)) > 1 else 1
    vectors, coefficients = (call.attributes.get(name, ()) for name in ("support_vectors", "coefficients"))
    return rows * (3 * len(vectors) + 2 * len(coefficients))


@_rule("TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble")
def _trees(call: Call) -> float:
    # A comparison at each level of each tree: as many levels as a balanced tree of so many nodes has.
    rows = call.input(0)[0] if len(call.input(0)) > 1 else 1
    if call.op_type == "TreeEnsemble":
        nodes = int(np.size(call.attributes.get("nodes_splits", ()))) or 1  # a tensor there
        trees = len(call.attributes.get("tree_roots", (0,)))
    else:
        owners = call.attributes.get("nodes_treeids", (0,))
        nodes, trees = len(owners), len(set(owners)) or 1
    return rows * trees * max(1, (nodes // trees).bit_length())
