"""The KV cache in host memory: keys and values after rotation, one buffer per layer and part.

Devices exchange the cache in this form. A runner whose engine works in place computes on these buffers directly; any
other copies from and to them. The layout is [batch, kv heads, tokens, head dim] in float32 for all engines.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from trisect.runtime.errors import ContextExceeded
from trisect.runtime.tensors.dtypes import dtype_of

_STEP_TOKENS = 256
_PARTS = ("key", "value")


def past_names(layers: int) -> list[str]:
    """Return the names of all cache inputs, ``past_key_values.N.key/value``, ordered by layer."""
    return [f"past_key_values.{layer}.{part}" for layer in range(layers) for part in _PARTS]


def present_name(past: str) -> str:
    """Return the output that holds the cache after a run, for the input that holds it before."""
    return past.replace("past_key_values", "present")


def fresh_name(past: str) -> str:
    """Return the output that holds only the keys or values of a run's own tokens, for a cache input."""
    return past.replace("past_key_values", "fresh")


def cache_bytes_per_token(layers: int, kv_heads: int, head_dim: int) -> int:
    """Return the size of one token's keys and values in float32, over all layers."""
    return 4 * len(_PARTS) * layers * kv_heads * head_dim


class KvCache:
    """Keys and values of the tokens computed so far, in growing buffers.

    Parameters
    ----------
    layers, kv_heads, head_dim : int
        Sizes of the model.
    context_length : int
        Maximum number of tokens.
    capacity : int
        Tokens to allocate for at first.
    batch : int
        Number of sequences, all of one length.

    Examples
    --------
    >>> cache = KvCache(layers=1, kv_heads=2, head_dim=4, context_length=1024, capacity=10)
    >>> cache.capacity, cache.length
    (256, 0)
    """

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, context_length: int, capacity: int, *, batch: int = 1
    ) -> None:
        self.context_length = context_length
        self.length = 0
        self.generation = 0
        """Incremented whenever the buffers are reallocated: bindings to them have to be renewed."""
        self._layers = layers
        self._shape = (batch, kv_heads, 0, head_dim)
        self._buffers: dict[str, np.ndarray] = {}
        self.reserve(capacity)

    @property
    def capacity(self) -> int:
        """Number of tokens that fit into the buffers."""
        return next(iter(self._buffers.values())).shape[2] if self._buffers else 0

    @property
    def buffers(self) -> Mapping[str, np.ndarray]:
        """The buffers by name of the input they are bound to, float32 [batch, kv heads, capacity, head dim]."""
        return self._buffers

    def reserve(self, tokens: int) -> None:
        """Grow the buffers to hold `tokens` tokens in total; at least doubles them, to limit copying.

        Raises
        ------
        ContextExceeded
            If the model's context is shorter.
        """
        if tokens > self.context_length:
            raise ContextExceeded(
                f"{tokens} tokens do not fit into the model's context of {self.context_length}",
                remedy="shorten the prompt or ask for fewer new tokens",
            )
        if tokens <= self.capacity:
            return
        wanted = max(tokens, 2 * self.capacity)
        capacity = min(-(-wanted // _STEP_TOKENS) * _STEP_TOKENS, self.context_length)
        batch, heads, _, dim = self._shape
        buffers = {}
        for name in past_names(self._layers):
            # Zeros, not empty: a kernel may multiply what lies behind the last token by a weight of 0.
            buffer = np.zeros((batch, heads, capacity, dim), np.float32)
            if name in self._buffers:
                buffer[:, :, : self.length] = self._buffers[name][:, :, : self.length]
            buffers[name] = buffer
        self._buffers = buffers
        self.generation += 1

    def write(self, name: str, values: np.ndarray, start: int) -> None:
        """Copy keys or values, float32 or bfloat16 [batch, kv heads, tokens, head dim], to position `start`."""
        target = self._buffers[name][:, :, start : start + values.shape[2]]
        if values.dtype == dtype_of("bfloat16"):
            # The upper half of a float32; numpy converts integers vectorised, while ml_dtypes converts one by one.
            bits = target.view(np.uint32)
            np.copyto(bits, values.view(np.uint16))
            np.left_shift(bits, 16, out=bits)
        else:
            target[...] = values

    def filled(self) -> dict[str, np.ndarray]:
        """Return views of the filled part of the buffers, [batch, kv heads, length, head dim]."""
        return {name: buffer[:, :, : self.length] for name, buffer in self._buffers.items()}

    def clear(self) -> None:
        """Remove all tokens; the buffers stay allocated."""
        self.length = 0
