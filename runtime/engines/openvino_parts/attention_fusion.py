"""Rewrites a decoder's attention into the pattern for which OpenVINO's CPU plugin has one fused kernel.

The plugin fuses ``ScaledDotProductAttention`` with the KV cache only where it matches the pattern that OpenVINO GenAI
writes: a ReadValue, a Gather over beams, a Concat with the new tokens, a Broadcast of grouped heads. Its ONNX frontend
writes another pattern (a Tile for the grouped heads, an explicit mask), for which the plugin decomposes the attention:
that costs a fifth of prefill's time at 512 tokens, a quarter at 1,500. The pattern matching is in the plugin's
``stateful_sdpa_fusion.cpp`` (OpenVINO, Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op.util import Variable, VariableInfo
from openvino.utils.node_factory import NodeFactory

BEAM_INPUT = "beam_idx"
"""An additional int32 [batch] input of the fused model: the sequence of the cache that each row continues.

Here each row continues its own sequence: 0, 1, 2, ..."""

_REPEATS_HEADS = ("Reshape", "Tile", "Unsqueeze", "Broadcast")
_COMPARISONS = {"LessEqual", "GreaterEqual", "Less", "Greater"}


@dataclass(frozen=True)
class _CachedTensor:
    """Keys or values of one attention: the new ones, and the model's input that contains the past ones."""

    parameter: str
    fresh: ov.Output
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class _Attention:
    node: ov.Node
    query: ov.Output
    key: _CachedTensor
    value: _CachedTensor
    batch: int


def fuse_attention(model: ov.Model, state: Mapping[str, str]) -> int:
    """Move the cache of every attention into the model, and rewrite the attention for the plugin's kernel.

    Parameters
    ----------
    model : openvino.Model
        Changed in place, if all of its attentions can be rewritten; else unchanged.
    state : mapping
        Inputs (``past_key_values.N.key``) and the outputs that replace them.

    Returns
    -------
    int
        Batch size; 0 where an attention has another form, or an input of `state` is not the past of one.
    """
    matches = [_match(node, state) for node in model.get_ordered_ops() if _type(node) == "ScaledDotProductAttention"]
    attentions = [attention for attention in matches if attention is not None]
    covered = {cached.parameter for attention in attentions for cached in (attention.key, attention.value)}
    batches = {attention.batch for attention in attentions}
    if len(batches) != 1 or len(attentions) != len(matches) or covered != set(state):
        return 0
    results = {name: result for result in model.get_results() for name in result.output(0).get_names()}
    parameters = {name: parameter for parameter in model.get_parameters() for name in parameter.output(0).get_names()}
    beam = ops.parameter([-1], np.int32, name=BEAM_INPUT)
    beam.output(0).set_names({BEAM_INPUT})
    model.add_parameters([beam])
    for attention in attentions:
        heads = attention.query.get_partial_shape()[1].get_length()
        key = _extend(model, attention.key, state, beam, attention.batch, heads)
        value = _extend(model, attention.value, state, beam, attention.batch, heads)
        scale = attention.node.input_value(4) if attention.node.get_input_size() > 4 else None
        inputs = [attention.query, key, value]
        if scale is not None:  # the input after a mask, here one that adds zero
            inputs += [ops.constant(np.array(0, np.float32)).output(0), _output(scale)]
        fused = NodeFactory("opset13").create("ScaledDotProductAttention", inputs, {"causal": True})
        _whole_rows(attention.node).replace(fused.output(0))
    for past, present in state.items():
        model.remove_result(results[present])
        model.remove_parameter(parameters[past])
    model.validate_nodes_and_infer_types()
    return batches.pop()


def _match(node: ov.Node, state: Mapping[str, str]) -> _Attention | None:
    """Return a causal attention over a past that is an input of the model; None for any other."""
    key, value = (_cached(node.input_value(at), state) for at in (1, 2))
    batch = node.input_value(0).get_partial_shape()[0]
    if key is None or value is None or batch.is_dynamic or not _is_causal(node):
        return None
    return _Attention(node, _output(node.input_value(0)), key, value, batch.get_length())


def _cached(source: ov.Output, state: Mapping[str, str]) -> _CachedTensor | None:
    node = source.get_node()
    while _type(node) in _REPEATS_HEADS:
        node = node.input_value(0).get_node()
    if _type(node) != "Concat" or node.get_input_size() != 2:
        return None
    past, fresh = node.input_value(0), node.input_value(1)
    names = [name for name in past.get_names() if name in state]
    shape = fresh.get_partial_shape()
    if _type(past.get_node()) != "Parameter" or not names or len(shape) != 4 or shape[1].is_dynamic:
        return None
    return _CachedTensor(names[0], _output(fresh), shape[1].get_length(), shape[3].get_length())


def _is_causal(node: ov.Node) -> bool:
    """Return whether the causal flag is set, or the mask is the causal one of the ONNX frontend.

    A mask that depends on an input, for padding or a window, must be kept.
    """
    if node.get_attributes().get("causal"):
        return True
    if node.get_input_size() < 4:
        return False
    kinds = {_type(source) for source in _ancestors(node.input_value(3).get_node(), limit=64)}
    return "Range" in kinds and "Parameter" not in kinds and bool(kinds & _COMPARISONS)


def _ancestors(node: ov.Node, limit: int) -> Iterator[ov.Node]:
    """Yield the nodes from which a mask is computed; only shapes matter before a ShapeOf."""
    pending, count = [node], 0
    while pending and count < limit:
        current = pending.pop()
        count += 1
        yield current
        if _type(current) != "ShapeOf":
            pending += [current.input_value(at).get_node() for at in range(current.get_input_size())]


def _whole_rows(node: ov.Node) -> ov.Output:
    """Return the attention's output after the nodes that zero fully masked rows, which a causal mask does not have."""
    users = [port.get_node() for port in node.output(0).get_target_inputs()]
    selects = [user for user in users if _type(user) == "Select"]
    if len(selects) == 1 and {_type(user) for user in users} == {"IsNaN", "ConvertLike", "Select"}:
        return selects[0].output(0)
    return node.output(0)


def _extend(
    model: ov.Model, cached: _CachedTensor, state: Mapping[str, str], beam: ov.Node, batch: int, heads: int
) -> ov.Output:
    """Return the cache with the new tokens appended, repeated for grouped heads: [batch, heads, total, head dim]."""
    info = VariableInfo()
    info.data_shape = ov.PartialShape([-1, cached.kv_heads, -1, cached.head_dim])
    info.data_type = ov.Type.f32
    info.variable_id = cached.parameter + state[cached.parameter]
    variable = Variable(info)
    empty = ops.constant(np.array([batch, cached.kv_heads, 0, cached.head_dim], np.int64))
    past = ops.read_value(ops.broadcast(ops.constant(np.array(0, np.float32)), empty), variable)
    past = ops.gather(past, beam, ops.constant(np.array(0, np.int32)))
    total = ops.concat([past, cached.fresh], 2)
    model.add_variables([variable])
    model.add_sinks([ops.assign(total, variable)])
    if heads == cached.kv_heads:
        return total.output(0)
    shape, axis = ops.shape_of(total, "i64"), ops.constant(np.array(0, np.int64))
    sizes = [ops.gather(shape, ops.constant(np.array([at], np.int64)), axis) for at in range(4)]
    sizes.insert(2, ops.constant(np.array([heads // cached.kv_heads], np.int64)))
    grouped = ops.unsqueeze(total, ops.constant(np.array(2, np.int64)))
    grouped = ops.broadcast(grouped, ops.concat(sizes, 0), broadcast_spec="BIDIRECTIONAL")
    merged = ops.constant(np.array([0, heads, -1, cached.head_dim], np.int64))
    return ops.reshape(grouped, merged, special_zero=True).output(0)


def _output(source: ov.Output) -> ov.Output:
    """Return a node's output; nodes cannot be built on the value of an input."""
    return source.get_node().output(source.get_index())


def _type(node: ov.Node) -> str:
    return str(node.get_type_name())
