"""Imports a folder of onnxruntime-genai, optimum or transformers.js: adapts its graph and links its weights.

A decoder with GroupQueryAttention becomes two graphs: one whose KV cache is extended in place, with which ONNX Runtime
decodes fastest, and one with a growing cache, for engines that are faster at prompts. Any other becomes the latter.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import onnx_ir as ir

from trisect.partitioner.graph.model_loading import load_model
from trisect.runtime.progress import Progress

from ..bundle import VERSION, Bundle, PhaseGraph
from ..graphs.cache_dtype import in_place_graphs
from ..graphs.decoder_interface import Decoder, adapt, can_extend_in_place
from ..graphs.linked_weights import LinkedWeights
from ..graphs.lm_head import dynamic_values
from ..running.kv_layer import equal_layers
from .folder_config import VARIANTS, ExportedDecoder, read_decoder_config, read_folder_tokenizer

_MATRIX_PRODUCTS = frozenset(
    "Gemm MatMul FusedMatMul MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul QLinearMatMul "
    "MatMulNBits MatMulBnb4".split()
)


def import_folder(source: Path, folder: Path, *, progress: Progress) -> Bundle:
    """Write a bundle's files into an empty folder, except its description, which the caller saves last.

    Parameters
    ----------
    source : Path
        A folder that `is_model_folder` accepts.

    Returns
    -------
    Bundle
        Without `source_sha256` and `importer`.

    Raises
    ------
    InvalidModel, UnsupportedModel, UnsupportedOperator
        If the folder is incomplete, inconsistent, or holds no decoder with a KV cache.
    OSError
        If a file cannot be written.
    """
    progress(0, 100, "reading the configuration")
    config = read_decoder_config(source)
    read_folder_tokenizer(source).save(folder)
    progress(10, 100, "reading the graph")
    model = load_model(config.graph)
    in_place = can_extend_in_place(model)
    weights = LinkedWeights(folder, progress)
    decoder = adapt(model, config, in_place=False)
    flops, decode_bytes = _flops_and_bytes(decoder)
    progress(40, 100, "writing the graphs")
    weights.save(decoder.model, "standard.onnx")
    graphs = [PhaseGraph("standard.onnx", cache="grown", engines=("openvino",) if in_place else (), fresh=True)]
    if in_place:
        weights.save(adapt(load_model(config.graph), config, in_place=True).model, "in_place.onnx")
        graphs += in_place_graphs(folder)
    context = min(config.context_length, decoder.rotary_positions or config.context_length)
    return Bundle(
        version=VERSION,
        name=_name(source),
        source=source.name,
        source_sha256="",
        importer="",
        layers=config.layers,
        kv_layers=equal_layers(config.layers, config.kv_heads, config.head_dim),
        vocab=config.vocab,
        context_length=context,
        graphs=tuple(graphs),
        weights_bytes=weights.size_bytes,
        flops_per_token=flops,
        decode_bytes_per_token=decode_bytes,
        notes=tuple(_notes(decoder, config, context)),
    )


def _notes(decoder: Decoder, config: ExportedDecoder, context: int) -> list[str]:
    notes = []
    if config.graph.stem in VARIANTS[1:] and config.graph.stem != "decoder_model_merged":
        notes.append(f"imported from {config.graph.name}: the folder has no model.onnx in full precision")
    if context < config.context_length:
        notes.append(f"context limited to the {context} positions of the graph's rotary embedding tables")
    if decoder.head is None:
        notes.append("prefill is slower than necessary: the graph's output projection was not recognised")
    if decoder.half:
        notes.append("keys and values are float16 inside the graph and are converted unless with --kv-dtype float16")
    return notes


def _name(source: Path) -> str:
    """Return the folder's name, or the repository's in a download cache (models--owner--name/snapshots/...)."""
    for parent in source.resolve().parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return parent.parent.name.split("--")[-1]
    return source.resolve().name


def _flops_and_bytes(decoder: Decoder) -> tuple[int, int]:
    """Return the FLOPs of a prompt token before the last, and the bytes of weights that computing one token reads."""
    graph = decoder.model.graph
    dynamic = dynamic_values(graph)
    head = set(decoder.head.nodes) if decoder.head is not None else set()
    flops = bytes_read = 0
    for node in graph:
        if node.op_type not in _MATRIX_PRODUCTS:
            continue
        weights = [value for value in node.inputs if value is not None and value not in dynamic]
        if not weights or not any(value in dynamic for value in node.inputs):
            continue
        bytes_read += sum(tensor.nbytes for tensor in _tensors(weights))
        if node not in head:
            flops += 2 * _elements(node, weights)
    return flops, bytes_read


def _elements(node: ir.Node, weights: list[ir.Value]) -> int:
    """Return the number of elements of a matrix product's weight."""
    sizes = [a.as_int() for a in node.attributes.values() if a.name in ("N", "K") and a.type == ir.AttributeType.INT]
    if len(sizes) == 2:
        return prod(sizes)
    return max((prod(tensor.shape.numpy()) for tensor in _tensors(weights)), default=0)


def _tensors(values: list[ir.Value]) -> list[ir.TensorProtocol]:
    """Return the stored tensors that constant values are computed from."""
    tensors: dict[ir.Value, ir.TensorProtocol] = {}
    pending, seen = list(values), set(values)
    while pending:
        value = pending.pop()
        tensor = ir.convenience.get_const_tensor(value)
        producer = value.producer()
        if tensor is not None:
            tensors[value] = tensor
        elif producer is not None:
            unseen = [v for v in producer.inputs if v is not None and v not in seen]
            seen.update(unseen)
            pending.extend(unseen)
    return list(tensors.values())
