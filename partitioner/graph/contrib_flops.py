"""FLOPs of rare operators: mixtures of experts, fused projections, regions of interest, trees, Fourier transforms."""

from __future__ import annotations

from math import prod

import numpy as np

from .op_call import FlopsRule, OpCall, register_in

RULES: dict[str, FlopsRule] = {}
_rule = register_in(RULES)


@_rule("MoE", "QMoE")
def _experts(call: OpCall) -> float:
    """Each token passes `k` experts: two matrix products, three where the activation is gated separately."""
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
def _gate_and_up(call: OpCall) -> float:
    rows = prod(call.input(0)[:-1])
    return 2 * 2 * rows * int(call.attributes["K"]) * int(call.attributes["N"])


@_rule("MatMulNBitsQkv")
def _three_projections(call: OpCall) -> float:
    width = int(call.attributes["Nq"]) + 2 * int(call.attributes["Nkv"])
    return 2 * prod(call.input(0)[:-1]) * int(call.attributes["K"]) * width


@_rule("CDist")
def _distances(call: OpCall) -> float:
    return 3 * call.written * (call.input(0)[-1] if call.input(0) else 1)


@_rule("Det", "Inverse")
def _elimination(call: OpCall) -> float:
    shape = call.input(0)
    size = shape[-1] if shape else 1
    return (2 if call.op_type == "Inverse" else 2 / 3) * prod(shape) * size


@_rule("Rfft", "Irfft")
def _transform(call: OpCall) -> float:
    length = max(call.input(0) or (1,))
    return 5 * prod(call.input(0)) / 2 * max(1, length.bit_length() - 1)


@_rule("RoiAlign", "CropAndResize")
def _regions(call: OpCall) -> float:
    # Four neighbours per sample; a grid of samples per cell, 2 x 2 where the model does not fix it.
    samples = int(call.attributes.get("sampling_ratio", 0)) or 2
    return 8 * call.written * (samples**2 if call.op_type == "RoiAlign" else 1)


@_rule("Col2Im", "CumProd", "GlobalLpPool")
def _each_input(call: OpCall) -> float:
    return (2 if call.op_type == "GlobalLpPool" else 1) * prod(call.input(0))


@_rule("Sum", "Mean", "Max", "Min")
def _variadic(call: OpCall) -> float:
    return call.written * max(1, len(call.inputs) - 1)


@_rule("LinearClassifier", "LinearRegressor")
def _linear(call: OpCall) -> float:
    rows = call.input(0)[0] if len(call.input(0)) > 1 else 1
    return 2 * rows * len(call.attributes.get("coefficients", ()))


@_rule("SVMClassifier", "SVMRegressor")
def _support_vectors(call: OpCall) -> float:
    rows = call.input(0)[0] if len(call.input(0)) > 1 else 1
    vectors, coefficients = (call.attributes.get(name, ()) for name in ("support_vectors", "coefficients"))
    return rows * (3 * len(vectors) + 2 * len(coefficients))


@_rule("TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble")
def _trees(call: OpCall) -> float:
    # One comparison per level of each tree, as if the trees were balanced.
    rows = call.input(0)[0] if len(call.input(0)) > 1 else 1
    if call.op_type == "TreeEnsemble":
        nodes = int(np.size(call.attributes.get("nodes_splits", ()))) or 1  # a tensor there
        trees = len(call.attributes.get("tree_roots", (0,)))
    else:
        owners = call.attributes.get("nodes_treeids", (0,))
        nodes, trees = len(owners), len(set(owners)) or 1
    return rows * trees * max(1, (nodes // trees).bit_length())
