"""Converts a bundle to the folder format of ONNX Runtime GenAI, to compare it on the same weights.

Its graphs resemble the bundle's in-place graph: the same attention with the cache in one buffer. The difference is that
it provides an attention mask, from which the graph computes the lengths, where a bundle's graph takes the lengths.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import platformdirs
from onnx import TensorProto, helper, numpy_helper

from trisect.llm.bundle import Bundle
from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.errors import UnsupportedModel

from .graph_copy import write_graph

CONFIG_FILE = "genai_config.json"
_GRAPH_FILE = "model.onnx"
_ATTENTION = "GroupQueryAttention"
_LENGTHS = ("seqlens_k", "total_sequence_length")


def genai_folder(bundle: Bundle) -> Path:
    """Return the folder of a bundle for ONNX Runtime GenAI, written now if it was not before.

    It is in the user's cache. The weights are a hard link to the bundle's file, or a copy on another file system.

    Raises
    ------
    UnsupportedModel
        If the bundle has no graph with its cache in one buffer.
    StorageFailed
        If the cache cannot be written.
    """
    target = platformdirs.user_cache_path("trisect") / "bench" / "genai" / bundle.key
    if (target / CONFIG_FILE).is_file():  # written last
        return target
    graph = next((graph for graph in bundle.graphs if graph.cache == "in-place"), None)
    if graph is None:
        raise UnsupportedModel(
            f"{bundle.name} has no graph that ONNX Runtime GenAI can run",
            remedy="give a GGUF file, or its own folder",
        )
    source = Path(bundle.folder)
    model = onnx.load(source / graph.file, load_external_data=False)
    heads = _attention_heads(model, bundle.name)
    _add_attention_mask(model.graph)
    write_graph(model, source, target / _GRAPH_FILE)
    write_atomically(target / CONFIG_FILE, msgspec.json.encode(_config(bundle, heads)))
    return target


def _attention_heads(model: onnx.ModelProto, name: str) -> int:
    attention = next((node for node in model.graph.node if node.op_type == _ATTENTION), None)
    if attention is None or not set(_LENGTHS) <= {value.name for value in model.graph.input}:
        raise UnsupportedModel(f"{name} has no graph in the form of ONNX Runtime GenAI")
    return next(int(attribute.i) for attribute in attention.attribute if attribute.name == "num_heads")


def _add_attention_mask(graph: onnx.GraphProto) -> None:
    """Compute the lengths in the graph from an attention mask int64 [1, total] of ones (without padding)."""
    for value in [value for value in graph.input if value.name in _LENGTHS]:
        graph.input.remove(value)
    graph.input.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, [1, "total"]))
    one = numpy_helper.from_array(np.array([1], np.int64), "mask/one")
    graph.initializer.append(one)
    nodes = [
        helper.make_node("Shape", ["attention_mask"], ["mask/width"], start=1, end=2),
        helper.make_node("Squeeze", ["mask/width"], ["mask/total"]),
        helper.make_node("Cast", ["mask/total"], [_LENGTHS[1]], to=TensorProto.INT32),
        helper.make_node("ReduceSum", ["attention_mask", one.name], ["mask/sum"], keepdims=0),
        helper.make_node("Sub", ["mask/sum", one.name], ["mask/last"]),
        helper.make_node("Cast", ["mask/last"], [_LENGTHS[0]], to=TensorProto.INT32),
    ]
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _config(bundle: Bundle, heads: int) -> dict[str, Any]:
    cache = {"key": "past_key_values.%d.key", "value": "past_key_values.%d.value"}
    decoder = {
        "filename": _GRAPH_FILE,
        "head_size": bundle.kv_layers[0].head_dim,
        "num_attention_heads": heads,
        "num_key_value_heads": bundle.kv_layers[0].kv_heads,
        "num_hidden_layers": bundle.layers,
        "session_options": {"provider_options": []},
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": cache["key"],
            "past_value_names": cache["value"],
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": cache["key"].replace("past_key_values", "present"),
            "present_value_names": cache["value"].replace("past_key_values", "present"),
        },
    }
    model = {
        "type": "llama",
        "context_length": bundle.context_length,
        "vocab_size": bundle.vocab,
        "bos_token_id": 0,
        "pad_token_id": 0,  # no eos_token_id: the caller decides how long an answer is
        "decoder": decoder,
    }
    return {"model": model, "search": {"do_sample": False, "past_present_share_buffer": True}}
