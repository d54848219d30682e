"""Imports a GGUF file: converts its weights, and writes two graphs and the tokenizer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trisect.runtime.errors import UnsupportedModel
from trisect.runtime.progress import Progress

from ..architectures import read_config
from ..bundle import VERSION, Bundle, LongContext, PhaseGraph
from ..gguf.gguf_reader import GgufFile, GgufTensor
from ..gguf.gguf_tokenizer import read_tokenizer
from ..gguf.quantised_blocks import half_rotation_order
from ..graphs.cache_dtype import FULL_LENGTH_FILE, IN_PLACE_FILE, in_place_graphs
from ..graphs.decoder_config import DecoderConfig, LayerConfig
from ..graphs.in_place_graph import can_write_in_place, write_in_place
from ..graphs.layers.decoder_layers import DeltaWeights, Layer, ModelWeights
from ..graphs.standard_graph import write_standard
from ..graphs.static_graph import can_write_static, write_lookup, write_static
from ..graphs.weights_file import Linear, Span, Stacked, Weight, WeightsFile
from ..running.kv_layer import KvLayer
from ..running.recurrent_state import RecurrentState
from ..tokenization.tokenizer import Tokenizer
from .expert_conversion import convert_expert_biases, convert_experts
from .weight_conversion import PhaseWeights, Preference, WeightConverter

WEIGHTS_FILE = "weights.bin"
_SECOND_COPY_MAX_BYTES = 400 << 20
"""Weights in the source up to which prefill has a copy of its own; above, its memory costs more than it gains."""
_CONTEXT_MAX_TOKENS = 1 << 18
"""Longest context: tables of the rotary embedding are stored for all of it, and a file may state any length."""


@dataclass(frozen=True)
class DecoderForms:
    """How weights are to be stored: see `import_gguf`."""

    weights: str
    prefer: Preference


def import_gguf(
    source: Path, folder: Path, *, weights: str, prefer: Preference = "speed", progress: Progress
) -> Bundle:
    """Write a bundle's files into an empty folder, except its description, which the caller saves last.

    Parameters
    ----------
    weights : {"blocks", "float32"}
        Store weights as in the file, or everything in float32 (four times the size; a reference).
    prefer : {"speed", "exact"}
        Allow forms of the weights with a small error where they measured faster, or exact ones only.

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
    forms = DecoderForms(weights=weights, prefer=prefer)
    return import_decoder(file, read_config(file), read_tokenizer(file), folder, forms=forms, progress=progress)


def import_decoder(
    file: GgufFile,
    config: DecoderConfig,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    forms: DecoderForms,
    progress: Progress,
) -> Bundle:
    """Write a bundle's files from tensors under GGUF's names, as `import_gguf` does."""
    notes: list[str] = []
    weights, prefer = forms.weights, forms.prefer
    stated = max(config.context_length, config.long_context_length)
    if stated > _CONTEXT_MAX_TOKENS:
        notes.append(f"context limited to {_CONTEXT_MAX_TOKENS} of the {stated} tokens that the file states")
        limited, extended = (min(n, _CONTEXT_MAX_TOKENS) for n in (config.context_length, config.long_context_length))
        long_ropes = config.long_ropes if extended > limited else ()
        config = replace(config, context_length=limited, long_context_length=extended, long_ropes=long_ropes)
    in_place = can_write_in_place(config)
    if config.delta is not None and not in_place:
        raise UnsupportedModel(
            f"{file.path.name} has gated delta layers beside heads of {config.head_dim}",
            remedy="use a model whose heads are a multiple of 16",
        )
    tokenizer.save(folder)
    with WeightsFile(folder / WEIGHTS_FILE) as output:
        wide = _input_group(config) if in_place and prefer == "speed" and _is_small(file) else None
        converter = WeightConverter(
            output, in_blocks=weights == "blocks", prefer=prefer, wide_block=wide if wide != 32 else None
        )
        converted = _DecoderWeights(file, config, output, converter).convert(progress)
    progress(1, 1, "writing the graphs")
    multiplied = [product for layer in converted.exact_layers for product in _products_by_share(layer, config)]
    graphs = _write_graphs(folder, config, converted)
    long_context = None
    if (long := config.for_long_context) is not None:
        by_length = replace(converted, rotary_tables=converted.long_rotary_tables)
        long_graphs = _write_graphs(folder, long, by_length, "long.")
        long_context = LongContext(long.context_length, _kv_layers(long), long_graphs)
    return Bundle(
        version=VERSION,
        name=config.name,
        source=file.path.name,
        source_sha256="",
        importer="",
        layers=len(config.layers),
        kv_layers=_kv_layers(config),
        long_context=long_context,
        states=_states(config),
        vocab=config.vocab,
        context_length=config.context_length,
        graphs=graphs,
        weights_bytes=(folder / WEIGHTS_FILE).stat().st_size,
        flops_per_token=0
        if config.experts or config.delta  # which engines run at other speeds than products: never scaled to others
        else sum(2 * weight.shape[0] * weight.shape[1] for weight, _ in multiplied),
        decode_bytes_per_token=converted.output.size_bytes + int(sum(w.size_bytes * share for w, share in multiplied)),
        layer_values=config.layer_values,
        notes=tuple(notes),
        forms=converter.forms(),
    )


def _write_graphs(
    folder: Path, config: DecoderConfig, converted: ModelWeights, prefix: str = ""
) -> tuple[PhaseGraph, ...]:
    """Write all graphs of a model; the prefix begins their names."""
    group = min((block for layer in converted.layers for block in _blocks_of(layer)), default=None)
    standard_file, static_file, lookup_file = (f"{prefix}{name}.onnx" for name in ("standard", "static", "lookup"))
    graphs: list[PhaseGraph] = []
    in_place = can_write_in_place(config)
    if config.delta is None:
        write_standard(folder / standard_file, config, converted, WEIGHTS_FILE)
        engines = ("openvino",) if in_place else ()
        graphs.append(PhaseGraph(standard_file, cache="grown", engines=engines, fresh=True, scale_group=group))
    if in_place:
        has_caps = config.attention_softcap is not None
        for name in (IN_PLACE_FILE, FULL_LENGTH_FILE):
            full_length, file = name == FULL_LENGTH_FILE, f"{prefix}{name}"
            if not full_length or any(layer.window is not None for layer in config.kv_layers):
                write_in_place(folder / file, config, converted, WEIGHTS_FILE, full_length=full_length)
                graphs += in_place_graphs(folder, file, full_length=full_length, soft_caps=has_caps)
    if can_write_static(config, converted):
        write_static(folder / static_file, config, converted, WEIGHTS_FILE)
        write_lookup(folder / lookup_file, config, converted, WEIGHTS_FILE)
        graphs.append(PhaseGraph(static_file, cache="static", fresh=True, scale_group=group, lookup=lookup_file))
    return tuple(graphs)


def _kv_layers(config: DecoderConfig) -> tuple[KvLayer, ...]:
    if can_write_in_place(config):
        return config.kv_layers
    return tuple(replace(layer, window=None) for layer in config.kv_layers)


class _DecoderWeights:
    """Converts all weights of one file, layer by layer."""

    def __init__(self, file: GgufFile, config: DecoderConfig, output: WeightsFile, converter: WeightConverter) -> None:
        self._tensors = file.tensors
        self._config = config
        self._output = output
        self._converter = converter

    def convert(self, progress: Progress) -> ModelWeights:
        config = self._config
        progress(0, len(config.layers) + 1, "embedding")
        embedding = self._converter.table(self._tensors["token_embd.weight"])
        head = embedding if config.tied_embeddings else self._converter.table(self._tensors["output.weight"])
        tables = self._rotary_tables(config)
        long = config.for_long_context
        long_tables = () if long is None else self._rotary_tables(long)
        norm = self._vector("output_norm.weight")
        layers, exact = [], []
        count = len(config.layers)
        for index in range(count):
            progress(index + 1, count + 1, f"layer {index + 1} of {count}")
            prefill, decode = self._layer(f"blk.{index}.", config.layers[index])
            layers.append(prefill)
            exact.append(decode)
        return ModelWeights(embedding, head, norm, tables, tuple(layers), tuple(exact), long_tables)

    def _rotary_tables(self, config: DecoderConfig) -> tuple[tuple[Span, Span], ...]:
        tables = []
        for rope in config.ropes:
            cosines, sines = rope.table(config.context_length)
            tables.append((self._output.add(cosines), self._output.add(sines)))
        return tuple(tables)

    def _layer(self, prefix: str, options: LayerConfig) -> tuple[Layer, Layer]:
        """Return a layer with the weights for prefill, and with those for decode."""
        config, attends = self._config, not options.recurrent
        qkv = ("attn_qkv",) if config.fused_qkv or not attends else ("attn_q", "attn_k", "attn_v")
        gate_up = ("ffn_up",) if config.fused_gate_up else ("ffn_gate", "ffn_up")
        products = {
            "qkv": self._gated_qkv(prefix)
            if config.attention_gate and attends
            else self._product(prefix, qkv, self._orders() if attends else None),
            "attention_output": self._product(prefix, ("attn_output" if attends else "ssm_out",)),
        }
        if config.experts is not None:
            products["router"] = self._product(prefix, ("ffn_gate_inp",))
        else:
            products |= {"gate_up": self._product(prefix, gate_up), "down": self._product(prefix, ("ffn_down",))}
        vectors = {
            "qkv_bias": ([f"{name}.bias" for name in qkv], config.qkv_bias),
            "output_bias": (["attn_output.bias"], config.output_bias),
            "attention_norm": (["attn_norm.weight"], config.pre_norms),
            "attention_post_norm": (["post_attention_norm.weight"], config.post_norms),
            "ffn_norm": ([f"{config.ffn_norm_name}.weight"], config.pre_norms),
            "ffn_post_norm": (["post_ffw_norm.weight"], config.post_norms),
            # Norms over heads need no reordering, since files that have them rotate by halves.
            "query_norm": (["attn_q_norm.weight"], config.head_norm is not None and attends),
            "key_norm": (["attn_k_norm.weight"], config.head_norm is not None and attends),
            "sinks": (["attn_sinks.weight"], config.attention_sinks),
        }
        rest: dict[str, Any] = {
            field: self._converter.vector(
                [self._tensors[f"{prefix}{name}"] for name in names],
                self._orders() if field == "qkv_bias" else [None],
            )
            for field, (names, present) in vectors.items()
            if present
        }
        if config.experts is not None:
            rest |= convert_experts(self._converter, self._output, self._tensors, prefix)
            if config.experts.biases:
                rest |= convert_expert_biases(self._output, self._tensors, prefix)
        if not attends:
            rest["delta"] = self._delta(prefix)
        prefill: dict[str, Any] = {name: weights.prefill for name, weights in products.items()}
        decode: dict[str, Any] = {name: weights.decode for name, weights in products.items()}
        return Layer(**prefill, **rest), Layer(**decode, **rest)

    def _product(
        self, prefix: str, names: Sequence[str], orders: Sequence[np.ndarray | None] | None = None
    ) -> PhaseWeights:
        tensors = [self._tensors[f"{prefix}{name}.weight"] for name in names]
        return self._converter.product(tensors, orders or [None] * len(names))

    def _gated_qkv(self, prefix: str) -> PhaseWeights:
        """Convert Q, K and V, and then the rows of Q's gates, which follow each head of Q in the file."""
        config = self._config
        query, key, value = (self._tensors[f"{prefix}attn_{part}.weight"] for part in "qkv")
        halves = query.data[0 : query.rows].reshape(config.heads, 2, config.head_dim, -1)
        shape = (config.query_size, config.hidden)
        query, gate = (GgufTensor(query.name, shape, query.type, halves[:, at].reshape(shape[0], -1)) for at in (0, 1))
        return self._converter.product([query, key, value, gate], [None] * 4)

    def _delta(self, prefix: str) -> DeltaWeights:
        gates = self._product(prefix, ("attn_gate", "ssm_beta", "ssm_alpha")).decode
        names = {"kernel": "ssm_conv1d.weight", "time_bias": "ssm_dt.bias", "decay": "ssm_a", "norm": "ssm_norm.weight"}
        return DeltaWeights(gates, **{field: self._vector(f"{prefix}{name}") for field, name in names.items()})

    def _orders(self) -> list[np.ndarray | None]:
        """Return the new row orders of Q, K and V, or of the three as one tensor."""
        config = self._config
        if not config.rope_interleaved:
            return [None] if config.fused_qkv else [None] * 3
        queries, keys = (half_rotation_order(heads, config.head_dim) for heads in (config.heads, config.kv_heads))
        if not config.fused_qkv:
            return [queries, keys, None]
        values = np.arange(config.kv_size) + config.query_size + config.kv_size
        return [np.concatenate([queries, keys + config.query_size, values])]

    def _vector(self, name: str) -> Span:
        return self._converter.vector([self._tensors[name]])


def _is_small(file: GgufFile) -> bool:
    """Return whether a second copy of the weights, for prefill, is small enough to be worth its speed."""
    return sum(tensor.data.size for tensor in file.tensors.values()) <= _SECOND_COPY_MAX_BYTES


def _input_group(config: DecoderConfig) -> int:
    """Return how many inputs of a product may share a scale if rounded to 8 bits: also the weights in a wide block."""
    return 64 if math.gcd(config.hidden, config.ffn, config.query_size) % 64 == 0 else 32


def _blocks_of(layer: Layer) -> Iterator[int]:
    """Yield the block sizes of a layer's quantised weights."""
    for weight in _products_of(layer):
        for part in weight.parts if isinstance(weight, Stacked) else (weight,):
            if isinstance(part, Linear):
                yield part.form.block


def _products_of(layer: Layer) -> list[Weight]:
    products = [layer.qkv, layer.attention_output, layer.gate_up, layer.down]
    return products if layer.delta is None else [*products, layer.delta.gates]


def _states(config: DecoderConfig) -> tuple[RecurrentState, ...]:
    """Return what the layers other than attention keep between runs."""
    if config.delta is None:
        return ()
    shapes = {
        "conv": (config.delta.channels, config.delta.kernel - 1),
        "delta": (config.delta.value_heads, config.delta.head_dim, config.delta.head_dim),
    }
    recurrent = [index for index, layer in enumerate(config.layers) if layer.recurrent]
    return tuple(RecurrentState(index, part, shape) for index in recurrent for part, shape in shapes.items())


def _products_by_share(layer: Layer, config: DecoderConfig) -> list[tuple[Weight, float]]:
    """Return the weights of a layer, and the share of each that one token is multiplied by."""
    products = [(weight, 1.0) for weight in _products_of(layer)]
    if config.experts is None or layer.router is None:
        return products
    share = config.experts.used / config.experts.count
    return [*products[:2], (layer.router, 1.0), (layer.gate_up, share), (layer.down, share)]
