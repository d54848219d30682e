"""Imports a GGUF file: converts its weights, and writes two graphs and the tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trisect.runtime.progress import Progress

from ..bundle import VERSION, Bundle, PhaseGraph
from ..gguf.gguf_reader import GgufFile
from ..gguf.gguf_tokenizer import read_tokenizer
from ..gguf.llama_config import LlamaConfig, read_config, rope_cache
from ..gguf.quantised_blocks import BLOCK, half_rotation_order
from ..graphs.decoder_graphs import write_in_place, write_standard
from ..graphs.decoder_layers import Layer, ModelWeights
from ..graphs.weights_file import Span, Weight, WeightsFile
from .weight_conversion import PhaseWeights, WeightConverter

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
    read_tokenizer(file).save(folder)
    in_place = config.head_dim % _ROTARY_HEAD_MULTIPLE == 0
    with WeightsFile(folder / WEIGHTS_FILE) as output:
        converter = WeightConverter(output, in_blocks=weights == "blocks", exact=in_place, block=_wide_block(config))
        converted = _DecoderWeights(file, config, output, converter).convert(progress)
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


class _DecoderWeights:
    """Converts all weights of one file, layer by layer."""

    def __init__(self, file: GgufFile, config: LlamaConfig, output: WeightsFile, converter: WeightConverter) -> None:
        self._tensors = file.tensors
        self._config = config
        self._output = output
        self._converter = converter

    def convert(self, progress: Progress) -> ModelWeights:
        config, output = self._config, self._output
        progress(0, config.layers + 1, "embedding")
        embedding = self._converter.table(self._tensors["token_embd.weight"])
        head = embedding if config.tied_embeddings else self._converter.table(self._tensors["output.weight"])
        cosines, sines = rope_cache(config, config.context_length)
        tables = output.add(cosines), output.add(sines)
        norm = self._vector("output_norm.weight")
        layers, exact = [], []
        for index in range(config.layers):
            progress(index + 1, config.layers + 1, f"layer {index + 1} of {config.layers}")
            prefill, decode = self._layer(f"blk.{index}.")
            layers.append(prefill)
            exact.append(decode)
        return ModelWeights(embedding, head, norm, *tables, tuple(layers), tuple(exact))

    def _layer(self, prefix: str) -> tuple[Layer, Layer]:
        """Return a layer with the weights for prefill, and with those for decode."""
        products = {
            "qkv": self._product(prefix, ("attn_q", "attn_k", "attn_v"), self._orders()),
            "attention_output": self._product(prefix, ("attn_output",)),
            "gate_up": self._product(prefix, ("ffn_gate", "ffn_up")),
            "down": self._product(prefix, ("ffn_down",)),
        }
        rest: dict[str, Any] = {
            "qkv_bias": self._bias(prefix),
            "attention_norm": self._vector(f"{prefix}attn_norm.weight"),
            "ffn_norm": self._vector(f"{prefix}ffn_norm.weight"),
            "query_norm": self._head_norm(f"{prefix}attn_q_norm.weight"),
            "key_norm": self._head_norm(f"{prefix}attn_k_norm.weight"),
        }
        prefill: dict[str, Any] = {name: weights.prefill for name, weights in products.items()}
        decode: dict[str, Any] = {name: weights.decode for name, weights in products.items()}
        return Layer(**prefill, **rest), Layer(**decode, **rest)

    def _product(
        self, prefix: str, names: Sequence[str], orders: Sequence[np.ndarray | None] | None = None
    ) -> PhaseWeights:
        tensors = [self._tensors[f"{prefix}{name}.weight"] for name in names]
        return self._converter.product(tensors, orders or [None] * len(names))

    def _bias(self, prefix: str) -> Span | None:
        if not self._config.qkv_bias:
            return None
        return self._converter.vector([self._tensors[f"{prefix}attn_{part}.bias"] for part in "qkv"], self._orders())

    def _orders(self) -> list[np.ndarray | None]:
        """Return the new row orders of Q, K and V."""
        config = self._config
        if not config.rope_interleaved:
            return [None, None, None]
        return [half_rotation_order(heads, config.head_dim) for heads in (config.heads, config.kv_heads)] + [None]

    def _vector(self, name: str) -> Span:
        return self._converter.vector([self._tensors[name]])

    def _head_norm(self, name: str) -> Span | None:
        """Convert the norm over one head; it needs no reordering, since such files rotate by halves."""
        return self._vector(name) if self._config.qk_norm else None


def _wide_block(config: LlamaConfig) -> int:
    """Return the weights in a wide block: also the inputs of a product that share a scale if rounded to 8 bits."""
    return 64 if math.gcd(config.hidden, config.ffn, config.heads * config.head_dim) % 64 == 0 else BLOCK


def _products_of(layer: Layer) -> list[Weight]:
    return [layer.qkv, layer.attention_output, layer.gate_up, layer.down]


def _bytes(weight: Weight) -> int:
    spans = (weight.data, getattr(weight, "scales", None), getattr(weight, "offset", None))
    return sum(span.size_bytes for span in spans if span is not None)
