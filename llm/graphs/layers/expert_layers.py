"""Adds a mixture of experts to a graph: a router, and one operator that computes the chosen experts only.

``com.microsoft.QMoE`` multiplies by blocks of 4 or 8 bits without offsets, of one form for all three projections;
``com.microsoft.MoE`` by float32. Rows of gate and up are in turns, as the operators' CPU kernels require. OpenVINO does
not know them: `trisect.runtime.engines.openvino_parts.expert_translation` writes the pattern that its plugin fuses.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..decoder_config import DecoderConfig, ExpertsConfig
from ..weight_products import MICROSOFT, product, stored_floats
from ..weights_file import Dense, GraphBuilder, Linear, Weight
from .decoder_layers import Layer, biased


def mixture_of_experts(
    graph: GraphBuilder, x: str, layer: Layer, config: DecoderConfig, prefix: str, *, batched: bool = False
) -> str:
    """Add the router and the experts of a layer, and return their output.

    Parameters
    ----------
    x : str
        [tokens, hidden], or [1, tokens, hidden] if `batched`.
    """
    experts = config.experts
    assert experts is not None
    assert layer.router is not None
    scores = product(graph, x, layer.router, f"{prefix}.router", batched=batched)
    scores = biased(graph, scores, layer.router_bias, f"{prefix}.router")
    if batched:
        by_token = graph.constant("router.shape", np.array([-1, experts.count], np.int64))
        scores = graph.node("Reshape", [scores, by_token], f"{prefix}.router.2d")
    weights = [
        (layer.gate_up, layer.gate_up_bias, f"{prefix}.gate_up"),
        (layer.down, layer.down_bias, f"{prefix}.down"),
    ]
    inputs = [x, scores]
    for weight, bias, name in weights:
        inputs += _weight_inputs(graph, weight, experts.count, name)
        inputs.append("" if bias is None else graph.constant(f"{name}.bias", bias))
    while not inputs[-1]:
        inputs.pop()
    attributes = _attributes(experts)
    if isinstance(layer.gate_up, Linear):
        form = layer.gate_up.form
        attributes |= {"expert_weight_bits": form.bits, "block_size": form.block, "accuracy_level": 4}
        return graph.node("QMoE", inputs, f"{prefix}.experts", domain=MICROSOFT, **attributes)
    return graph.node("MoE", inputs, f"{prefix}.experts", domain=MICROSOFT, **attributes)


def _attributes(experts: ExpertsConfig) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "k": experts.used,
        "activation_type": "swiglu",
        "swiglu_fusion": 1,
        "activation_alpha": experts.gate_factor,
        "activation_beta": experts.up_offset,
        "normalize_routing_weights": 1,
    }
    if experts.limit is not None:
        attributes["swiglu_limit"] = experts.limit
    return attributes


def _weight_inputs(graph: GraphBuilder, weight: Weight, experts: int, name: str) -> list[str]:
    """Add a stack of experts' weights [experts * rows, columns] as [experts, rows, columns], and their scales."""
    if isinstance(weight, Dense):
        rows, columns = weight.shape
        return [stored_floats(graph, weight.data.reshaped(experts, rows // experts, columns), f"{name}.weight")]
    assert isinstance(weight, Linear)
    rows, blocks, size = weight.data.shape
    data = weight.data.reshaped(experts, rows // experts, blocks * size)
    scales = weight.scales.base.reshaped(experts, rows // experts, blocks)
    return [graph.constant(f"{name}.weight", data), graph.constant(f"{name}.scales", scales)]
