"""From a GGUF file to a bundle: weights carried over block by block, two graphs, the tokenizer.

Every quantised weight is stored in 8 bits (exact for Q8_0 and Q4_0, near-lossless for Q4_1). The feed-forward's large
stacked product is stored a second time in its exact 4-bit form, for the graph that decodes: there bytes read are time,
and at this size they outweigh the extra product that the exact form of Q4_1 needs. In prefill it is the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
_EXACT_PAYS_ELEMENTS = 1 << 20
"""Weights in a product from which the exact 4-bit form of Q4_1 decodes faster than 8 bits.

It reads 12 bytes less for each 32 weights and costs three small kernels, about 10 us together: at 40 GB/s that is even
at a million weights (measured with ONNX Runtime 1.31 on two Zen 5 cores; bench/llm.py measures both).
"""

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
    write_in_place(folder / "in_place.onnx", config, weights, WEIGHTS_FILE)
    write_standard(folder / "standard.onnx", config, weights, WEIGHTS_FILE)
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
        graphs=(
            PhaseGraph("standard.onnx", cache="grown", engines=("openvino",), fresh=True),
            PhaseGraph("in_place.onnx", cache="in-place"),
        ),
        weights_bytes=(folder / WEIGHTS_FILE).stat().st_size,
        flops_per_token=sum(2 * int(np.prod(w.shape)) for layer in weights.layers for w in _read_by_decode(layer)),
        decode_bytes_per_token=_bytes(weights.output)
        + sum(_bytes(w) for layer in weights.layers for w in _read_by_decode(layer)),
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
        layers = []
        for index in range(config.layers):
            progress((index + 1) / (config.layers + 1), f"layer {index + 1} of {config.layers}")
            layers.append(self._layer(f"blk.{index}."))
        return ModelWeights(embedding, head, norm, *tables, tuple(layers))

    def _layer(self, prefix: str) -> Layer:
        config = self._config
        qkv = [f"{prefix}attn_{part}" for part in "qkv"]
        bias = None
        if config.qkv_bias:
            parts = [dequantise(self._file.tensors[f"{name}.bias"]) for name in qkv]
            orders = self._orders()
            bias = self._output.add(
                np.concatenate([b if order is None else b[order] for b, order in zip(parts, orders, strict=True)])
            )
        gate_up = [f"{prefix}ffn_gate.weight", f"{prefix}ffn_up.weight"]
        return Layer(
            qkv=self._stack([f"{name}.weight" for name in qkv], self._orders()),
            qkv_bias=bias,
            attention_output=self._stack([f"{prefix}attn_output.weight"]),
            gate_up=self._stack(gate_up),
            gate_up_exact=self._exact(gate_up),
            down=self._stack([f"{prefix}ffn_down.weight"]),
            attention_norm=self._vector(f"{prefix}attn_norm.weight"),
            ffn_norm=self._vector(f"{prefix}ffn_norm.weight"),
            query_norm=self._head_norm(f"{prefix}attn_q_norm.weight"),
            key_norm=self._head_norm(f"{prefix}attn_k_norm.weight"),
        )

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

    def _exact(self, names: list[str]) -> Linear | None:
        tensors = [self._file.tensors[name] for name in names]
        large = sum(tensor.rows * tensor.columns for tensor in tensors) >= _EXACT_PAYS_ELEMENTS
        if not self._in_blocks or not large or not all(tensor.type in ("Q4_0", "Q4_1") for tensor in tensors):
            return None
        return self._blocks([to_matmulnbits(tensor, 4) for tensor in tensors], [None] * len(names))

    def _blocks(self, parts: list[QuantBlocks], orders: list[np.ndarray | None]) -> Linear:
        ordered = [p if order is None else take_rows(p, order) for p, order in zip(parts, orders, strict=True)]
        return self._output.add_blocks(concat_rows(ordered) if len(ordered) > 1 else ordered[0])

    def _vector(self, name: str) -> Span:
        return self._output.add(dequantise(self._file.tensors[name]))

    def _head_norm(self, name: str) -> Span | None:
        """Weight of a norm over one head, whose elements follow no row order since its file rotates by halves."""
        return self._vector(name) if self._config.qk_norm else None


def _read_by_decode(layer: Layer) -> list[Weight]:
    return [layer.qkv, layer.attention_output, layer.gate_up_exact or layer.gate_up, layer.down]


def _bytes(weight: Weight) -> int:
    if isinstance(weight, Dense):
        return weight.data.size_bytes
    return sum(span.size_bytes for span in (weight.data, weight.scales, weight.offset) if span is not None)
