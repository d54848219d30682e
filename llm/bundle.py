"""An imported language model on disk: ONNX graphs, weights, tokenizer, and a JSON file that describes them.

A bundle holds one or more graphs of the same model over one weights file. Which graph a device runs depends on how its
engine handles the KV cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.common.decoder_support import DecoderSupport, KvCacheMode
from trisect.runtime.errors import EngineFailed, InvalidModel
from trisect.runtime.untrusted_files import MalformedFile, decode_json, read_bytes

from .running.kv_cache import KvCache
from .running.kv_layer import KvChoice, KvDtype, KvLayer
from .running.recurrent_state import RecurrentState

BUNDLE_FILE = "bundle.json"
VERSION = 2
_MAX_SIZES = {"layers": 1 << 12, "vocab": 1 << 24, "context_length": 1 << 31}
"""More than any model has: memory is allocated by these sizes, so a damaged file must not choose them."""
_MAX_KV_SIZES = {"kv_heads": 1 << 14, "head_dim": 1 << 14}

_MAX_STATES_BYTES = 1 << 34

_REMEDY = "import the model again"

Phases = Literal["prefill", "decode", "both"]
"""One phase of generation, or both."""
CacheMode = Literal["in-place", "grown", "static"]
"""How a graph handles the KV cache: one buffer read and extended in place; past as inputs and present as outputs; or
slots of a fixed number of tokens as inputs, and the keys and values of a run's own tokens as outputs."""

_CACHE_OF: Mapping[KvCacheMode, CacheMode] = {
    "in-place": "in-place", "stateful": "grown", "growing": "grown", "static": "static",
}  # fmt: skip
"""The graph that each way of keeping the cache on a device needs."""
_VERBS: Mapping[CacheMode, str] = {
    "in-place": "extend a KV cache in place", "grown": "keep a growing KV cache", "static": "run static graphs",
}  # fmt: skip
_STATIC_LIMITS = "only GGUF and transformers models without experts, attention sinks and delta layers have one"


@dataclass(frozen=True)
class PhaseGraph:
    """One ONNX graph of the model."""

    file: str
    cache: CacheMode
    engines: tuple[str, ...] = ()
    """Engines that this form of the graph was optimised for, for information; `Bundle.graph_for` does not use it."""
    fresh: bool = False
    """True if the outputs ``fresh.N.key/value`` hold the keys and values that one run appends to the cache."""
    kv_dtype: KvDtype = "float32"
    """Dtype of its cache inputs and outputs."""
    scale_group: int | None = None
    """Number of inputs of a matrix product that may share a scale when an engine rounds them to 8 bits; None = the
    engine's default."""
    soft_caps: bool = False
    """Whether attention that extends caches in place has to cap its scores."""
    full_length: bool = False
    """Whether caches extended in place hold all tokens of layers with a sliding window too, for devices that cannot
    hold the window alone."""
    lookup: str = ""
    """Of a static graph: the graph that computes the inputs that belong to each token, on the host."""


@dataclass(frozen=True)
class StoredForm:
    """How an import stored the weights of one type."""

    type: str
    """The type in the source."""
    phase: Phases
    """The phase whose graph reads them."""
    form: str
    weights: int
    """Number of weights."""
    error: float
    """Root mean square of their errors, relative to that of the weights; 0 = exact."""
    bits: int = 0
    """Of a weight's level; 0 = not quantised."""
    block: int = 0
    """Number of weights that share a scale."""
    has_offsets: bool = False
    """Whether each block has an offset too."""


@dataclass(frozen=True)
class LongContext:
    """What a bundle has in addition for contexts beyond its own, whose rotary embedding has other factors."""

    context_length: int
    kv_layers: tuple[KvLayer, ...]
    graphs: tuple[PhaseGraph, ...]


@dataclass(frozen=True)
class Bundle:
    """Description of an imported language model.

    The graphs' inputs and outputs are named as by Hugging Face's exporters: ``input_ids``; depending on the graph
    ``position_ids`` and ``attention_mask``, or ``seqlens_k`` and ``total_sequence_length``;
    ``past_key_values.N.key/value`` [1, kv heads, tokens, head dim]; ``logits`` of the last token;
    ``present.N.key/value``.
    """

    version: int
    name: str
    source: str
    """Name of the file or folder that it was imported from."""
    source_sha256: str
    importer: str
    """Version of the importer's output; a bundle of another version is imported again."""
    layers: int
    kv_layers: tuple[KvLayer, ...]
    """What each layer with attention keeps in the KV cache."""
    vocab: int
    context_length: int
    graphs: tuple[PhaseGraph, ...]
    weights_bytes: int
    flops_per_token: int
    """Of a prompt token before the last, without attention: the output projection is applied to the last token only.
    0 where not all of the work is matrix products, whose speed is comparable with that of other models."""
    decode_bytes_per_token: int
    """Weights read to compute one token."""
    layer_values: int = 0
    """Values that one layer computes for a token, its widest intermediate results included; 0 = unknown."""
    notes: tuple[str, ...] = ()
    """Remarks of the import for the user."""
    states: tuple[RecurrentState, ...] = ()
    """What layers without attention keep instead."""
    forms: tuple[StoredForm, ...] = ()
    """How the weights are stored; empty where they were taken over as they were."""
    long_context: LongContext | None = None
    """For longer contexts than `context_length`; see `for_context`."""
    folder: str = ""
    kv_dtype: KvChoice = "auto"
    """Dtype of the KV cache that a session is to use, which is not stored; see `with_kv_dtype`."""

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """Read a bundle's description and check that its files exist.

        Raises
        ------
        InvalidModel
            If the folder is not a bundle, or a file is missing or outside it.
        """
        folder = Path(folder)
        bundle = read_description(folder)
        for file in (file for graph in bundle.all_graphs for file in (graph.file, graph.lookup)):
            if file and not (folder / file).is_file():
                raise InvalidModel(f"{folder} lacks its graph {file!r}", remedy=_REMEDY)
        return replace(bundle, folder=str(folder))

    def save(self, folder: Path) -> None:
        """Write the description, after all other files: a folder that holds one counts as complete."""
        document = msgspec.to_builtins(self)
        del document["folder"], document["kv_dtype"]
        (folder / BUNDLE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))

    def graph_for(self, device: Device) -> PhaseGraph:
        """Return the graph that a device runs: that of `mode_for`.

        Raises
        ------
        EngineFailed
            If the device's engine states no way to run one of the graphs,
            or no graph for it has a cache of the chosen dtype.
        """
        return self.form_for(device)[1]

    def mode_for(self, device: Device) -> KvCacheMode:
        """Return how a device keeps the KV cache: the first of the ways that its engine states which has a graph.

        Raises
        ------
        EngineFailed
            As `graph_for`.
        """
        return self.form_for(device)[0]

    def form_for(self, device: Device) -> tuple[KvCacheMode, PhaseGraph]:
        """Return how a device keeps the KV cache, and the graph that it runs.

        Raises
        ------
        EngineFailed
            As `graph_for`, and where the device keeps the cache in memory of its own, which cannot hold recurrent
            states yet.
        """
        support = engines.decoder_support(device)
        check_decoder_support(device, support)
        caches = {graph.cache for graph in self.graphs if support.soft_caps or not graph.soft_caps}
        mode = next((mode for mode in support.modes if _CACHE_OF[mode] in caches), None)
        if mode is None:
            missing = " or ".join(_VERBS[cache] for cache in sorted(caches))
            reason = f"cannot {missing}, as the graphs of {self.name} need it"
            if set(support.modes) == {"static"}:
                reason = f"needs a graph of fixed shapes, and {self.name} has none: {_STATIC_LIMITS}"
            raise EngineFailed(f"{device.id} {reason}", remedy=support.remedy, device=device.id)
        if self.states and engines.capabilities(device).own_memory:
            raise EngineFailed(
                f"{device.id} keeps caches in its own memory, where the states of {self.name} cannot be kept yet",
                remedy="choose cpu:ort", device=device.id,
            )  # fmt: skip
        graphs = [graph for graph in self.graphs if graph.cache == _CACHE_OF[mode]]
        if mode != "in-place":
            return mode, graphs[0]
        full_length = self.has_windows and not support.windowed_cache
        graphs = [graph for graph in graphs if graph.full_length == full_length]
        wanted = "float32" if self.kv_dtype == "auto" else self.kv_dtype
        suitable = [graph for graph in graphs if graph.kv_dtype == wanted]
        if not suitable:
            offered = ", ".join(graph.kv_dtype for graph in graphs)
            raise EngineFailed(
                f"{device.id} keeps the KV cache of {self.name} in {offered}, not in {wanted}",
                remedy="choose another --kv-dtype or another device", device=device.id,
            )  # fmt: skip
        if wanted not in support.attention_dtypes:
            raise EngineFailed(
                f"{device.id} takes keys and values in {' or '.join(support.attention_dtypes)} only, not in {wanted}",
                remedy="choose another --kv-dtype or another device", device=device.id,
            )  # fmt: skip
        return mode, suitable[0]

    @property
    def has_windows(self) -> bool:
        """Whether the KV cache in host memory holds only a sliding window of some layers."""
        return any(layer.window is not None for layer in self.kv_layers)

    def new_cache(self, capacity: int, *, batch: int = 1) -> KvCache:
        """Return an empty KV cache of the model for `batch` sequences, with room for `capacity` tokens of each."""
        return KvCache(self.kv_layers, self.context_length, capacity, batch=batch, states=self.states)

    @property
    def all_graphs(self) -> tuple[PhaseGraph, ...]:
        """The graphs for any context."""
        return (*self.graphs, *(self.long_context.graphs if self.long_context is not None else ()))

    @property
    def longest_context(self) -> int:
        """Maximum number of tokens, with the graphs of `for_context`."""
        return self.context_length if self.long_context is None else self.long_context.context_length

    def for_context(self, tokens: int) -> Bundle:
        """Return the bundle with the graphs for sequences of `tokens` tokens, prompt and answer together.

        Where its rotary embedding has other factors for long contexts (LongRoPE), they hold for a sequence from its
        first token on: a cache of the one kind cannot be continued with the other.
        """
        if self.long_context is None or tokens <= self.context_length:
            return self
        long = replace(
            self, context_length=self.long_context.context_length, kv_layers=self.long_context.kv_layers,
            graphs=self.long_context.graphs, long_context=None,
        )  # fmt: skip
        return long.with_kv_dtype(self.kv_dtype)

    def with_kv_dtype(self, choice: KvChoice) -> Bundle:
        """Return the bundle with another dtype of keys and values.

        ``auto`` is float32 in host memory, and inside an engine its own default: float16 was measured slower on
        processors, for half the memory. In host memory, bfloat16 and int8 are widened to float32.
        """
        dtype: KvDtype = "float16" if choice == "float16" else "float32"
        return replace(self, kv_dtype=choice, kv_layers=tuple(replace(layer, dtype=dtype) for layer in self.kv_layers))

    @property
    def cache_bytes_per_token(self) -> int:
        """Size of one token's keys and values, over all layers; see `cache_bytes`."""
        return sum(layer.bytes_per_token for layer in self.kv_layers)

    def cache_bytes(self, tokens: int) -> int:
        """Return the size of what the KV cache holds of a sequence: that is what a hand-over copies."""
        return sum(layer.size_bytes(tokens) for layer in self.kv_layers) + sum(s.size_bytes for s in self.states)

    @property
    def key(self) -> str:
        """Identifier of the content, under which measurements are stored."""
        text = f"{self.source_sha256}/{self.importer}/{self.version}"
        if self.kv_dtype != "auto":
            text += f"/{self.kv_dtype}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_decoder_support(device: Device, support: DecoderSupport) -> None:
    """Refuse a device whose engine states no way to run language models.

    Raises
    ------
    EngineFailed
        With the engine's reason and remedy in one line.
    """
    if not support.modes:
        raise EngineFailed(
            f"{device.id} cannot run language models: it {support.reason}", remedy=support.remedy, device=device.id
        )


def read_description(folder: Path) -> Bundle:
    """Read a bundle's description, whose files may be missing.

    Raises
    ------
    InvalidModel
        If there is none, or it is damaged.
    """
    where = folder / BUNDLE_FILE
    try:
        bundle = decode_json(read_bytes(where), Bundle)
    except FileNotFoundError as error:
        raise InvalidModel(f"{folder} holds no {BUNDLE_FILE}", remedy=_REMEDY) from error
    except OSError as error:
        raise InvalidModel(f"{where} cannot be read: {error.strerror}", remedy=_REMEDY) from error
    except MalformedFile as error:
        raise InvalidModel(f"{where} is damaged: {error}", remedy=_REMEDY) from error
    if bundle.version != VERSION:
        raise InvalidModel(f"{folder} has bundle version {bundle.version}, expected {VERSION}", remedy=_REMEDY)
    in_range = _in_range(bundle, _MAX_SIZES)
    in_range &= all(min(state.shape, default=0) > 0 for state in bundle.states)
    in_range &= sum(state.size_bytes for state in bundle.states) <= _MAX_STATES_BYTES
    for kv_layers in (bundle.kv_layers, *([bundle.long_context.kv_layers] if bundle.long_context else [])):
        in_range = in_range and all(_in_range(layer, _MAX_KV_SIZES) for layer in kv_layers)
        indices = [layer.index for layer in kv_layers]
        in_range = in_range and bool(indices) and indices == sorted(set(indices) & set(range(bundle.layers)))
    in_range = in_range and bundle.context_length <= bundle.longest_context <= _MAX_SIZES["context_length"]
    if not bundle.graphs or not in_range:
        raise InvalidModel(f"{where} has no graphs or sizes out of range", remedy=_REMEDY)
    for graph in bundle.all_graphs:
        for file in filter(None, (graph.file, graph.lookup)):
            if Path(file).name != file or "\0" in file:
                raise InvalidModel(f"{where} names the graph {file!r}, outside its folder", remedy=_REMEDY)
        if graph.cache == "static" and not graph.lookup:
            raise InvalidModel(f"{where} names no lookup graph of {graph.file!r}", remedy=_REMEDY)
    return bundle


def _in_range(sizes: object, maxima: Mapping[str, int]) -> bool:
    return all(1 <= getattr(sizes, name) <= maximum for name, maximum in maxima.items())
