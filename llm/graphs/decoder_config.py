"""Describes a decoder for the graph writers: sizes, and which of the usual variations each of its layers has.

Every supported architecture is one `DecoderConfig`; the writers know these options, and no architecture by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..running.kv_layer import KvLayer, cached_window

_TABLE_ROWS = 1 << 12
"""Positions of a rotary table that are computed at once."""

Activation = Literal["silu", "gelu-tanh"]
"""Of the gate in the feed-forward layer; the latter is GELU in its tanh approximation."""
HeadNorm = Literal["head", "projection"]
"""RMS norm of Q and K before the rotary embedding: over each head, or over all heads at once."""


@dataclass(frozen=True)
class Rope:
    """A rotary position embedding."""

    frequencies: tuple[float, ...]
    """Radians per position, one for each pair of rotated dimensions: base, scaling and factors included."""
    magnitude: float = 1.0
    """Factor of cosines and sines, above 1 where YaRN or LongRoPE extend the context."""

    def table(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines and sines, float32 [length, pairs] each, one row per position."""
        frequencies = np.asarray(self.frequencies)
        cosines, sines = (np.empty((length, len(frequencies)), np.float32) for _ in range(2))
        # The angles need float64, which a long table as a whole would multiply.
        for start in range(0, length, _TABLE_ROWS):
            rows = slice(start, min(start + _TABLE_ROWS, length))
            angles = np.arange(rows.start, rows.stop, dtype=np.float64)[:, None] * frequencies
            cosines[rows], sines[rows] = np.cos(angles) * self.magnitude, np.sin(angles) * self.magnitude
        return cosines, sines


@dataclass(frozen=True)
class LayerConfig:
    """What may differ from layer to layer."""

    rope: int | None = 0
    """Index into `DecoderConfig.ropes`; None = no position embedding."""
    window: int | None = None
    """Number of tokens that attention sees, the token itself included; None = all."""
    recurrent: bool = False
    """Whether it is a gated delta layer (`DecoderConfig.delta`) in place of attention."""


@dataclass(frozen=True)
class DeltaConfig:
    """Gated delta layers (https://arxiv.org/abs/2412.06464): a causal convolution of Q, K and V, then a recurrence.

    The state of a head is a matrix that every token decays, and corrects towards returning its value for its key.
    """

    key_heads: int
    """Of queries as well."""
    value_heads: int
    """Value head ``h`` uses key head ``h % key_heads``."""
    head_dim: int
    kernel: int
    """Number of tokens that the convolution sees, the token itself included."""

    @property
    def key_size(self) -> int:
        """Size of all key heads, and of all query heads."""
        return self.key_heads * self.head_dim

    @property
    def value_size(self) -> int:
        """Size of all value heads."""
        return self.value_heads * self.head_dim

    @property
    def channels(self) -> int:
        """Number of channels of the convolution: Q, K and V."""
        return 2 * self.key_size + self.value_size


@dataclass(frozen=True)
class ExpertsConfig:
    """A mixture of experts in place of the feed-forward layer.

    A router scores all experts for each token; those with the best scores compute, and the softmax of their scores
    weighs them. Each is a gated unit of ``gate sigmoid(gate_factor gate) (up + up_offset)``.
    """

    count: int
    used: int
    """Number of experts that compute a token."""
    biases: bool = False
    """Whether the router and all projections of the experts have one."""
    gate_factor: float = 1.0
    up_offset: float = 0.0
    limit: float | None = None
    """Largest gate, and largest magnitude of up, before the rest is computed."""


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes, constants and options of a decoder."""

    architecture: str
    """Name in the file; SmolLM, TinyLlama and Mistral 7B are ``llama`` there."""
    name: str
    layers: tuple[LayerConfig, ...]
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    """Width of the feed-forward layer, or of each expert."""
    context_length: int
    vocab: int
    norm_epsilon: float
    attention_scale: float
    """Factor of the products of Q and K, usually ``head_dim ** -0.5``."""
    ropes: tuple[Rope, ...]
    long_ropes: tuple[Rope, ...] = ()
    """What takes their place in contexts longer than `context_length` (LongRoPE); a sequence has one kind only."""
    long_context_length: int = 0
    """Length of those contexts at most."""
    rope_interleaved: bool = False
    """Whether Q and K rows are in the order for interleaved rotation: see `quantised_blocks.half_rotation_order`."""
    tied_embeddings: bool = True
    """Whether ``token_embd.weight`` is the output projection too."""
    qkv_bias: bool = False
    output_bias: bool = False
    """Whether the attention's output projection has a bias."""
    fused_qkv: bool = False
    """Whether Q, K and V are one tensor in the file."""
    fused_gate_up: bool = False
    """Whether gate and up projection are one tensor in the file."""
    head_norm: HeadNorm | None = None
    pre_norms: bool = True
    """Whether attention and feed-forward layer normalise their input."""
    post_norms: bool = False
    """Whether they normalise their output, before it is added to the residual."""
    activation: Activation = "silu"
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    """Factor of what each attention and feed-forward layer adds."""
    logit_scale: float = 1.0
    attention_softcap: float | None = None
    """``c`` of ``c tanh(x / c)``, applied to the scaled products of Q and K."""
    logit_softcap: float | None = None
    experts: ExpertsConfig | None = None
    attention_sinks: bool = False
    """Whether every head has a further score in its softmax, which belongs to no token."""
    ffn_norm_name: str = "ffn_norm"
    """What the file calls the norm before the feed-forward layer."""
    delta: DeltaConfig | None = None
    """Of the layers that are recurrent."""
    attention_gate: bool = False
    """Whether each query head is followed by a gate of the head's output in the file."""

    @property
    def for_long_context(self) -> DecoderConfig | None:
        """The configuration for longer contexts; None where one serves for all."""
        if not self.long_ropes:
            return None
        return replace(self, ropes=self.long_ropes, context_length=self.long_context_length, long_ropes=())

    @property
    def kv_layers(self) -> tuple[KvLayer, ...]:
        """What each layer keeps in the KV cache of the in-place graph, which holds windows only."""
        return tuple(
            KvLayer(index, self.kv_heads, self.head_dim, window=cached_window(layer.window, self.context_length))
            for index, layer in enumerate(self.layers)
            if not layer.recurrent
        )

    @property
    def query_size(self) -> int:
        """Size of all query heads."""
        return self.heads * self.head_dim

    @property
    def layer_values(self) -> int:
        """Number of values that one layer computes for a token: residual, norm, Q, K, V, gate, up and their product."""
        active = 1 if self.experts is None else self.experts.used
        return 2 * self.hidden + self.query_size + 2 * self.kv_size + 3 * self.ffn * active

    @property
    def kv_size(self) -> int:
        """Size of all key heads, and of all value heads."""
        return self.kv_heads * self.head_dim

    @property
    def rotary_dim(self) -> int:
        """Number of dimensions of a head that rotate; the rest stay as they are."""
        return 2 * len(self.ropes[0].frequencies) if self.ropes else 0
