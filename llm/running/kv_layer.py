"""Describes what one decoder layer keeps in the KV cache: sizes, dtype, and how many tokens.

This is data of the model. The cache in host memory, runners, graph writers and predictions read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from trisect.runtime.tensors.dtypes import dtype_of

PARTS = ("key", "value")
_SLACK_MAX_TOKENS = 256

KvDtype = Literal["float32", "float16"]
"""A dtype of keys and values in host memory, and so in a hand-over."""
KvChoice = Literal["auto", "float32", "float16", "bfloat16", "int8"]
"""What a user may ask for; bfloat16 and int8 only inside engines that keep the cache themselves."""
KV_CHOICES: tuple[KvChoice, ...] = get_args(KvChoice)


@dataclass(frozen=True)
class KvLayer:
    """The KV cache of one layer.

    Examples
    --------
    >>> layer = KvLayer(0, kv_heads=2, head_dim=4)
    >>> layer.bytes_per_token, layer.size_bytes(10)
    (64, 640)

    A window of 8 in a buffer of 16: before token 17 could be written, all but the latest 7 tokens were removed.

    >>> windowed = KvLayer(0, kv_heads=2, head_dim=4, window=8)
    >>> windowed.rows(1000), windowed.first_position(16), windowed.first_position(17), windowed.size_bytes(10)
    (16, 0, 9, 512)
    """

    index: int
    """Number of the layer in the model; layers without attention have no cache."""
    kv_heads: int
    head_dim: int
    dtype: KvDtype = "float32"
    window: int | None = None
    """Number of latest tokens that attention sees, the token itself included, where the cache need not hold others;
    None = all."""

    @property
    def names(self) -> tuple[str, ...]:
        """The graph inputs that it is bound to, ``past_key_values.N.key/value``."""
        return tuple(f"past_key_values.{self.index}.{part}" for part in PARTS)

    @property
    def bytes_per_token(self) -> int:
        """Size of one token's key and value."""
        return len(PARTS) * self.kv_heads * self.head_dim * dtype_of(self.dtype).itemsize

    def size_bytes(self, tokens: int) -> int:
        """Return the size of what is kept of a sequence: that is what a hand-over copies."""
        return (tokens if self.window is None else min(tokens, self.window)) * self.bytes_per_token

    def rows(self, capacity: int) -> int:
        """Return the number of rows of a buffer in a cache for `capacity` tokens.

        A window has some rows to spare: tokens that leave it are removed many at a time, and until then the latest
        tokens can be taken back.
        """
        return capacity if self.window is None else self.window + _slack(self.window)

    def first_position(self, tokens: int) -> int:
        """Return the position of the token in row 0 of the buffer, once it has held `tokens` tokens in total.

        This is how ONNX Runtime's GroupQueryAttention with ``sliding_window_cache`` lays out its buffers, whatever the
        lengths of the runs (its documentation, "Windowed KV Cache").
        """
        if self.window is None or tokens <= self.rows(0):
            return 0
        removed = _slack(self.window) + 1
        return removed * -((self.rows(0) - tokens) // removed)

    def first_needed(self, tokens: int) -> int:
        """Return the position of the earliest token that the token after `tokens` others still sees."""
        return 0 if self.window is None else max(0, tokens + 1 - self.window)

    def shape(self, batch: int, rows: int) -> tuple[int, int, int, int]:
        """Return the shape of a key or value tensor that holds a number of tokens."""
        return batch, self.kv_heads, rows, self.head_dim


def equal_layers(layers: int, kv_heads: int, head_dim: int) -> tuple[KvLayer, ...]:
    """Return the cache of a model whose layers are alike."""
    return tuple(KvLayer(index, kv_heads, head_dim) for index in range(layers))


def cached_window(window: int | None, context_length: int) -> int | None:
    """Return the window of a layer if a cache that holds only that is smaller than one for the whole context."""
    return None if window is None or window + _slack(window) >= context_length else window


def _slack(window: int) -> int:
    return min(window, _SLACK_MAX_TOKENS)


def cache_names(layers: Sequence[KvLayer]) -> list[str]:
    """Return the names of all cache inputs of a graph, ordered by layer."""
    return [name for layer in layers for name in layer.names]


def present_name(past: str) -> str:
    """Return the output that holds the cache after a run, for the input that holds it before."""
    return past.replace("past_key_values", "present")


def fresh_name(past: str) -> str:
    """Return the output that holds only the keys or values of a run's own tokens, for a cache input."""
    return past.replace("past_key_values", "fresh")
