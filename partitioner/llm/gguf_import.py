"""From a GGUF file to a bundle: weights carried over block by block, two graphs, the tokenizer.

Every quantised weight is stored in 8 bits (exact for Q8_0 and Q4_0, near-lossless for Q4_1), the form that engines
multiply fastest with. One of 4 bits is stored a second time in its exact form, for the graph that decodes: there bytes
read are time, and fewer of them outweigh the extra product that the offsets of Q4_1 need (with ONNX Runtime 1.31 on two
Zen 5 cores a token of SmolLM2-135M takes 8 % less than with all products in 8 bits but the largest, and 20 % less than
with all of them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trisect.runtime.llm.bundle import VERSION, Bundle, PhaseGraph

from .gguf.blocks import QuantBlocks, concat_rows, dequantise, half_rotation_order, take_rows, to_matmulnbits
from .gguf.config import LlamaConfig, read_config, rope_cache
from .gguf.reader import GgufFile
from .gguf.tokenizer import read_tokenizer
from .graphs import write_in_place, write_standard
from .layers import Layer, ModelWeights
from .weights import Dense, Linear, Span, Weight, WeightsFile

WEIGHTS_FILE = "weights.bin"
_QUANTISED = ("Q8_0", "Q4_0", "Q4_1")
_ROTATED_IN_PLACE = 16
"""ONNX Runtime's GroupQueryAttention rotates heads whose size is a multiple of this."""

Progress = Callable[[float, str], None]


def import_gguf(source: Path, folder: Path, *, precision: str, progress: Progress) -> Bundle:
    """Write a bundle's files into an empty folder; its description is left to the caller to save.

    Parameters
    ----------
    source : Path
    folder : Path
    precision : {"blocks", "float32"}
        Keep quantised weights in blocks, or widen everything to float32 (four times the size; a reference).
    progress : callable
        Called with the part done (0 to 1) and what is being done.

    Raises
    ------
    InvalidModel, UnsupportedModel
        From reading the file.
    """
    file = GgufFile.open(source)
    config = read_config(file)
    notes: list[str] = []
    if config.sliding_window is not None and config.sliding_window < config.context_length:
        # Up to the window, attention over a window is attention over everything.
        notes.append(f"context limited to the model's sliding window of {config.sliding_window} tokens")
        config = replace(config, context_length=config.sliding_window)
    read_tokenizer(file, config).save(folder)
    with WeightsFile(folder / WEIGHTS_FILE) as output:
        weights = _Carrier(file, config, output, in_blocks=precision == "blocks").carry(progress)
    progress(1.0, "writing the graphs")
    read = [weight for layer in weights.exact_layers for weight in _products_of(layer)]
    write_standard(folder / "standard.onnx", config, weights, WEIGHTS_FILE)
    graphs: tuple[PhaseGraph, ...]
    if config.head_dim % _ROTATED_IN_PLACE == 0:
        write_in_place(folder / "in_place.onnx", config, weights, WEIGHTS_FILE)
        standard = PhaseGraph("standard.onnx", cache="grown", engines=("openvino",), fresh=True)
        graphs = (standard, PhaseGraph("in_place.onnx", cache="in-place"))
    else:
        graphs = (PhaseGraph("standard.onnx", cache="grown", fresh=True),)
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
        flops_per_token=sum(2 * weight.shape[0] * weight.shape[1] for weight in read),
        decode_bytes_per_token=_bytes(weights.output) + sum(map(_bytes, read)),
        notes=tuple(notes),
    )


class _Carrier:
    """Carries the weights of one file over, layer by layer."""

    def __init__(self, file: GgufFile, config: LlamaConfig, output: WeightsFile, *, in_blocks: bool) -> None:
        self._file = file
        self._config = config
        self._output = output
        self._in_blocks = in_blocks

    def carry(self, progress: Progress) -> ModelWeights:
        config, output = self._config, self._output
        progress(0.0, "embedding")
        embedding = self._stack(["token_embd.weight"])
        head = embedding if config.tied_embeddings else self._stack(["output.weight"])
        cosines, sines = rope_cache(config, config.context_length)
        tables = output.add(cosines), output.add(sines)
        norm = self._vector("output_norm.weight")
        layers, exact = [], []
        for index in range(config.layers):
            progress((index + 1) / (config.layers + 1), f"layer {index + 1} of {config.layers}")
            layers.append(self._layer(f"blk.{index}."))
            exact.append(self._exact(layers[-1], f"blk.{index}."))
        return ModelWeights(embedding, head, norm, *tables, tuple(layers), tuple(exact))

    def _layer(self, prefix: str) -> Layer:
        names = _products(prefix)
        return Layer(
            qkv=self._stack(names["qkv"], self._orders()),
            qkv_bias=self._bias(prefix),
            attention_output=self._stack(names["attention_output"]),
            gate_up=self._stack(names["gate_up"]),
            down=self._stack(names["down"]),
            attention_norm=self._vector(f"{prefix}attn_norm.weight"),
            ffn_norm=self._vector(f"{prefix}ffn_norm.weight"),
            query_norm=self._head_norm(f"{prefix}attn_q_norm.weight"),
            key_norm=self._head_norm(f"{prefix}attn_k_norm.weight"),
        )

    def _exact(self, layer: Layer, prefix: str) -> Layer:
        """The layer with each product of 4-bit weights in 4 bits."""
        exact: dict[str, Any] = {}
        for product, names in _products(prefix).items():
            tensors = [self._file.tensors[name] for name in names]
            if self._in_blocks and all(tensor.type in ("Q4_0", "Q4_1") for tensor in tensors):
                orders: list[np.ndarray | None] = self._orders() if product == "qkv" else [None] * len(names)
                exact[product] = self._blocks([to_matmulnbits(tensor, 4) for tensor in tensors], orders)
        return replace(layer, **exact)

    def _bias(self, prefix: str) -> Span | None:
        if not self._config.qkv_bias:
            return None
        parts = [dequantise(self._file.tensors[f"{prefix}attn_{part}.bias"]) for part in "qkv"]
        ordered = [b if order is None else b[order] for b, order in zip(parts, self._orders(), strict=True)]
        return self._output.add(np.concatenate(ordered))

    def _orders(self) -> list[np.ndarray | None]:
        """New row orders of Q, K and V."""
        config = self._config
        if not config.rope_interleaved:
            return [None, None, None]
        return [half_rotation_order(heads, config.head_dim) for heads in (config.heads, config.kv_heads)] + [None]

    def _stack(self, names: list[str], orders: list[np.ndarray | None] | None = None) -> Weight:
        tensors = [self._file.tensors[name] for name in names]
        orders = orders or [None] * len(names)
        if self._in_blocks and all(tensor.type in _QUANTISED for tensor in tensors):
            return self._blocks([to_matmulnbits(tensor, 8) for tensor in tensors], orders)
        dense = [dequantise(tensor) for tensor in tensors]
        dense = [w if order is None else w[order] for w, order in zip(dense, orders, strict=True)]
        return self._output.add_dense(np.concatenate(dense) if len(dense) > 1 else dense[0])

    def _blocks(self, parts: list[QuantBlocks], orders: list[np.ndarray | None]) -> Linear:
        ordered = [p if order is None else take_rows(p, order) for p, order in zip(parts, orders, strict=True)]
        return self._output.add_blocks(concat_rows(ordered) if len(ordered) > 1 else ordered[0])

    def _vector(self, name: str) -> Span:
        return self._output.add(dequantise(self._file.tensors[name]))

    def _head_norm(self, name: str) -> Span | None:
        """Weight of a norm over one head, whose elements follow no row order since its file rotates by halves."""
        return self._vector(name) if self._config.qk_norm else None


def _products(prefix: str) -> dict[str, list[str]]:
    """Fields of a `Layer` that hold a product, and the tensors that each is stacked of."""
    return {
        "qkv": [f"{prefix}attn_{part}.weight" for part in "qkv"],
        "attention_output": [f"{prefix}attn_output.weight"],
        "gate_up": [f"{prefix}ffn_gate.weight", f"{prefix}ffn_up.weight"],
        "down": [f"{prefix}ffn_down.weight"],
    }


def _products_of(layer: Layer) -> list[Weight]:
    return [layer.qkv, layer.attention_output, layer.gate_up, layer.down]


def _bytes(weight: Weight) -> int:
    if isinstance(weight, Dense):
        return weight.data.size_bytes
    return sum(span.size_bytes for span in (weight.data, weight.scales, weight.offset) if span is not None)
