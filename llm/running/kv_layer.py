"""Describes what one decoder layer keeps in the KV cache: sizes, dtype, and how many tokens.

This is data of the model. The cache in host memory, runners, graph writers and predictions read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from trisect.runtime.tensors.dtypes import dtype_of

PARTS = ("key", "value")

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
    """

    index: int
    """Number of the layer in the model; layers without attention have no cache."""
    kv_heads: int
    head_dim: int
    dtype: KvDtype = "float32"

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
        return tokens * self.bytes_per_token

    def shape(self, batch: int, rows: int) -> tuple[int, int, int, int]:
        """Return the shape of a key or value tensor that holds a number of tokens."""
        return batch, self.kv_heads, rows, self.head_dim


def equal_layers(layers: int, kv_heads: int, head_dim: int) -> tuple[KvLayer, ...]:
    """Return the cache of a model whose layers are alike."""
    return tuple(KvLayer(index, kv_heads, head_dim) for index in range(layers))


def cache_names(layers: Sequence[KvLayer]) -> list[str]:
    """Return the names of all cache inputs of a graph, ordered by layer."""
    return [name for layer in layers for name in layer.names]


def present_name(past: str) -> str:
    """Return the output that holds the cache after a run, for the input that holds it before."""
    return past.replace("past_key_values", "present")


def fresh_name(past: str) -> str:
    """Return the output that holds only the keys or values of a run's own tokens, for a cache input."""
    return past.replace("past_key_values", "fresh")
