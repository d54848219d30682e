"""Imports a GGUF file: converts its weights block by block, and writes two graphs and the tokenizer.

Each quantised weight is stored twice, once for each graph. The graph for prefill has them in 8 bits and blocks of 64,
which integer kernels multiply faster than blocks of 32 (OpenVINO 2026.4 computes 512 tokens in 0.88 of the time; with
one scale per row 0.84, but then the divergence from float32 doubles). The graph for decode has them exactly, in the
file's own blocks: decode is memory-bound, and fewer bytes outweigh the extra product for the offsets of Q4_1. Measured
with SmolLM2-135M on two Zen 5 cores.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trisect.runtime.progress import Progress

from ..bundle import VERSION, Bundle, PhaseGraph
from ..gguf.gguf_reader import GgufFile, GgufTensor
from ..gguf.gguf_tokenizer import read_tokenizer
from ..gguf.llama_config import LlamaConfig, read_config, rope_cache
from ..gguf.quantised_blocks import (
    BLOCK,
    QuantBlocks,
    concat_rows,
    dequantise,
    half_rotation_order,
    take_rows,
    to_matmulnbits,
    to_wide_blocks,
)
from ..graphs.decoder_graphs import write_in_place, write_standard
from ..graphs.decoder_layers import Layer, ModelWeights
from ..graphs.weights_file import Span, Weight, WeightsFile

WEIGHTS_FILE = "weights.bin"
_ROTARY_HEAD_MULTIPLE = 16
_CONTEXT_MAX_TOKENS = 1 << 18
"""Longest context: tables of the rotary embedding are stored for all of it, and a file may state any length."""
"""ONNX Runtime's GroupQueryAttention applies rotary embeddings to heads whose size is a multiple of this."""


def import_gguf(source: Path, folder: Path, *, weights: str, progress: Progress) -> Bundle:
    """Write a bundle's files into an empty folder, except its description, which the caller saves last.

    Parameters
    ----------
    weights : {"blocks", "float32"}
        Store quantised weights in blocks, or everything in float32 (four times the size; a reference).

    Returns
    -------
    Bundle
        Without `source_sha256` and `importer`.

    Raises
    ------
    InvalidModel, UnsupportedModel
        If the file is damaged or of an unsupported kind.
    OSError
        If a file cannot be written.
    """
    file = GgufFile.open(source)
    config = read_config(file)
    notes: list[str] = []
    if config.sliding_window is not None and config.sliding_window < config.context_length:
        # Within the window, sliding-window attention equals full attention.
        notes.append(f"context limited to the model's sliding window of {config.sliding_window} tokens")
        config = replace(config, context_length=config.sliding_window)
    if config.context_length > _CONTEXT_MAX_TOKENS:
        notes.append(
            f"context limited to {_CONTEXT_MAX_TOKENS} of the {config.context_length} tokens that the file states"
        )
        config = replace(config, context_length=_CONTEXT_MAX_TOKENS)
    read_tokenizer(file, config).save(folder)
    in_place = config.head_dim % _ROTARY_HEAD_MULTIPLE == 0
    with WeightsFile(folder / WEIGHTS_FILE) as output:
        converter = _WeightConverter(file, config, output, in_blocks=weights == "blocks", exact=in_place)
        converted = converter.convert(progress)
    progress(1, 1, "writing the graphs")
    decode_weights = [weight for layer in converted.exact_layers for weight in _products_of(layer)]
    write_standard(folder / "standard.onnx", config, converted, WEIGHTS_FILE)
    graphs: tuple[PhaseGraph, ...]
    group = _wide_block(config) if weights == "blocks" else None
    if in_place:
        write_in_place(folder / "in_place.onnx", config, converted, WEIGHTS_FILE)
        standard = PhaseGraph("standard.onnx", cache="grown", engines=("openvino",), fresh=True, scale_group=group)
        graphs = (standard, PhaseGraph("in_place.onnx", cache="in-place"))
    else:
        graphs = (PhaseGraph("standard.onnx", cache="grown", fresh=True, scale_group=group),)
    return Bundle(
        version=VERSION,
        name=config.name,
        source=source.name,
        source_sha256="",
        importer="",
        layers=config.layers,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        vocab=config.vocab,
        context_length=config.context_length,
        graphs=graphs,
        weights_bytes=(folder / WEIGHTS_FILE).stat().st_size,
        flops_per_token=sum(2 * weight.shape[0] * weight.shape[1] for weight in decode_weights),
        decode_bytes_per_token=_bytes(converted.output) + sum(map(_bytes, decode_weights)),
        notes=tuple(notes),
    )


class _WeightConverter:
    """Converts the weights of one file, layer by layer."""

    def __init__(
        self, file: GgufFile, config: LlamaConfig, output: WeightsFile, *, in_blocks: bool, exact: bool
    ) -> None:
        self._file = file
        self._config = config
        self._output = output
        self._in_blocks = in_blocks
        self._wants_exact = exact and in_blocks
        self._block = _wide_block(config)

    def convert(self, progress: Progress) -> ModelWeights:
        config, output = self._config, self._output
        progress(0, config.layers + 1, "embedding")
        embedding = self._table("token_embd.weight")
        head = embedding if config.tied_embeddings else self._table("output.weight")
        cosines, sines = rope_cache(config, config.context_length)
        tables = output.add(cosines), output.add(sines)
        norm = self._vector("output_norm.weight")
        layers, exact = [], []
        for index in range(config.layers):
            progress(index + 1, config.layers + 1, f"layer {index + 1} of {config.layers}")
            layers.append(self._layer(f"blk.{index}."))
            exact.append(self._exact(layers[-1], f"blk.{index}."))
        return ModelWeights(embedding, head, norm, *tables, tuple(layers), tuple(exact))

    def _layer(self, prefix: str) -> Layer:
        products: dict[str, Any] = {name: self._fast(*parts) for name, parts in self._products(prefix).items()}
        return Layer(
            qkv_bias=self._bias(prefix),
            attention_norm=self._vector(f"{prefix}attn_norm.weight"),
            ffn_norm=self._vector(f"{prefix}ffn_norm.weight"),
            query_norm=self._head_norm(f"{prefix}attn_q_norm.weight"),
            key_norm=self._head_norm(f"{prefix}attn_k_norm.weight"),
            **products,
        )

    def _exact(self, layer: Layer, prefix: str) -> Layer:
        """Return the layer with its quantised weights in the file's own blocks."""
        exact: dict[str, Any] = {}
        for name, (tensors, orders) in self._products(prefix).items():
            bits = 4 if all(tensor.type != "Q8_0" for tensor in tensors) else 8
            is_exact_already = bits == 8 and self._block == BLOCK
            if self._wants_exact and _quantised(tensors) and not is_exact_already:
                exact[name] = self._stack([to_matmulnbits(tensor, bits) for tensor in tensors], orders)
        return replace(layer, **exact)

    def _fast(self, tensors: list[GgufTensor], orders: list[np.ndarray | None]) -> Weight:
        if self._in_blocks and _quantised(tensors):
            return self._stack([self._eight_bits(tensor) for tensor in tensors], orders)
        dense = [dequantise(tensor) for tensor in tensors]
        return self._output.add_dense(
            np.concatenate([w if order is None else w[order] for w, order in zip(dense, orders, strict=True)])
        )

    def _eight_bits(self, tensor: GgufTensor) -> QuantBlocks:
        return to_matmulnbits(tensor, 8) if self._block == BLOCK else to_wide_blocks(tensor, self._block)

    def _stack(self, parts: list[QuantBlocks], orders: list[np.ndarray | None]) -> Weight:
        ordered = [part if order is None else take_rows(part, order) for part, order in zip(parts, orders, strict=True)]
        return self._output.add_blocks(concat_rows(ordered) if len(ordered) > 1 else ordered[0])

    def _table(self, name: str) -> Weight:
        """Convert the embedding, whose rows are looked up too, or the output projection."""
        tensor = self._file.tensors[name]
        if self._in_blocks and _quantised([tensor]):
            return self._output.add_blocks(to_matmulnbits(tensor, 8))
        return self._output.add_dense(dequantise(tensor))

    def _products(self, prefix: str) -> dict[str, tuple[list[GgufTensor], list[np.ndarray | None]]]:
        """Return, for each weight of a `Layer`, the tensors that it stacks and the new orders of their rows."""
        names = {
            "qkv": ["attn_q", "attn_k", "attn_v"],
            "attention_output": ["attn_output"],
            "gate_up": ["ffn_gate", "ffn_up"],
            "down": ["ffn_down"],
        }
        return {
            field: (
                [self._file.tensors[f"{prefix}{part}.weight"] for part in parts],
                self._orders() if field == "qkv" else [None] * len(parts),
            )
            for field, parts in names.items()
        }

    def _bias(self, prefix: str) -> Span | None:
        if not self._config.qkv_bias:
            return None
        parts = [dequantise(self._file.tensors[f"{prefix}attn_{part}.bias"]) for part in "qkv"]
        ordered = [b if order is None else b[order] for b, order in zip(parts, self._orders(), strict=True)]
        return self._output.add(np.concatenate(ordered))

    def _orders(self) -> list[np.ndarray | None]:
        """Return the new row orders of Q, K and V."""
        config = self._config
        if not config.rope_interleaved:
            return [None, None, None]
        return [half_rotation_order(heads, config.head_dim) for heads in (config.heads, config.kv_heads)] + [None]

    def _vector(self, name: str) -> Span:
        return self._output.add(dequantise(self._file.tensors[name]))

    def _head_norm(self, name: str) -> Span | None:
        """Convert the norm over one head; it needs no reordering, since such files rotate by halves."""
        return self._vector(name) if self._config.qk_norm else None


def _wide_block(config: LlamaConfig) -> int:
    """Return the weights in a wide block: also the inputs of a product that share a scale if rounded to 8 bits."""
    return 64 if math.gcd(config.hidden, config.ffn, config.heads * config.head_dim) % 64 == 0 else BLOCK


def _quantised(tensors: list[GgufTensor]) -> bool:
    return all(tensor.type in ("Q8_0", "Q4_0", "Q4_1") for tensor in tensors)


def _products_of(layer: Layer) -> list[Weight]:
    return [layer.qkv, layer.attention_output, layer.gate_up, layer.down]


def _bytes(weight: Weight) -> int:
    spans = (weight.data, getattr(weight, "scales", None), getattr(weight, "offset", None))
    return sum(span.size_bytes for span in spans if span is not None)
