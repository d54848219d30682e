"""Derives a graph whose KV cache in place is float16 from the same graph with float32.

Only the attention computes in float16: casts surround each ``GroupQueryAttention``, and everything between them, the
residual above all, stays float32. Gemma 3's residual exceeds 65,504, the maximum of float16.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from ..bundle import PhaseGraph

IN_PLACE_FILE = "in_place.onnx"
FULL_LENGTH_FILE = "in_place.full.onnx"
"""The form whose caches hold all tokens, where a layer has a sliding window."""
_ATTENTION = "GroupQueryAttention"
_FLOATS_IN = (0, 1, 2, 7, 8, 10, 11)
"""Inputs of the operator with the dtype of its query: Q, K, V, cosines, sines, bias, head sinks."""
_CACHE_PREFIXES = ("past_key_values.", "present.")


def in_place_graphs(
    folder: Path, file: str = IN_PLACE_FILE, *, full_length: bool = False, soft_caps: bool = False
) -> tuple[PhaseGraph, ...]:
    """Write the forms of a bundle's in-place graph in other dtypes of the cache; return all forms.

    Parameters
    ----------
    file : str
        The graph with the cache in float32.
    full_length, soft_caps : bool
        What that graph has: see `PhaseGraph`.
    """
    half_file = f"{Path(file).stem}.float16.onnx"
    write_half_cache(folder / file, folder / half_file)
    whole = PhaseGraph(file, cache="in-place", full_length=full_length, soft_caps=soft_caps)
    return whole, replace(whole, file=half_file, kv_dtype="float16")


def write_half_cache(source: Path, target: Path) -> None:
    """Write a copy of an in-place graph, next to it, with the cache in float16.

    A graph whose attention computes in float16 already loses its casts of the cache.
    """
    model = onnx.load(source, load_external_data=False)
    graph = model.graph
    half_caches = _remove_casts(graph)
    nodes: list[onnx.NodeProto] = []
    cast: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != _ATTENTION or node.input[3] in half_caches:
            nodes.append(node)
            continue
        for at in _FLOATS_IN:
            name = node.input[at] if at < len(node.input) else ""
            if not name:
                continue
            if name not in cast:
                cast[name] = f"{name}.half"
                nodes.append(helper.make_node("Cast", [name], [cast[name]], f"{name}.to_half", to=TensorProto.FLOAT16))
            node.input[at] = cast[name]
        output = node.output[0]
        node.output[0] = f"{output}.half"
        nodes.append(node)
        nodes.append(helper.make_node("Cast", [node.output[0]], [output], f"{output}.to_float", to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    for value in (*graph.input, *graph.output):
        if value.name.startswith(_CACHE_PREFIXES):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, target)


def _remove_casts(graph: onnx.GraphProto) -> set[str]:
    """Remove the casts between the float32 cache and attentions in float16; return the past inputs of these."""
    pasts: dict[str, str] = {}
    presents: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0].startswith("past_key_values."):
            pasts[node.output[0]] = node.input[0]
        elif node.op_type == "Cast" and node.output[0].startswith("present."):
            presents[node.input[0]] = node.output[0]
        else:
            nodes.append(node)
    for node in nodes:
        for names, renamed in ((node.input, pasts), (node.output, presents)):
            for at, name in enumerate(names):
                names[at] = renamed.get(name, name)
    del graph.node[:]
    graph.node.extend(nodes)
    return set(pasts.values())
