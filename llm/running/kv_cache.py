"""The KV cache as devices hand it to one another: keys and values after rotation, one buffer a layer and part.

A device that works in place computes on these very buffers; one that keeps the cache inside, or makes new arrays at
every run, copies from and to them. All engines agree on the layout [1, kv heads, tokens, head dim] in float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from trisect.runtime.errors import ContextExceeded
from trisect.runtime.tensors.dtypes import dtype_of

_STEP_TOKENS = 256
_PARTS = ("key", "value")


def past_names(layers: int) -> list[tuple[int, str, str]]:
    """Layer, part and name of every cache input, in the layers' order."""
    return [(layer, part, f"past_key_values.{layer}.{part}") for layer in range(layers) for part in _PARTS]


def cache_bytes_per_token(layers: int, kv_heads: int, head_dim: int) -> int:
    """Size of one token's keys and values in float32, over all layers."""
    return 4 * len(_PARTS) * layers * kv_heads * head_dim


class KvCache:
    """Keys and values of the tokens so far, in buffers with room for more.

    Parameters
    ----------
    layers, kv_heads, head_dim : int
        Sizes of the model.
    context_length : int
        Tokens that the cache may ever hold.
    capacity : int
        Tokens to make room for at first.

    Examples
    --------
    >>> cache = KvCache(layers=1, kv_heads=2, head_dim=4, context_length=1024, capacity=10)
    >>> cache.capacity, cache.length
    (256, 0)
    """

    def __init__(self, layers: int, kv_heads: int, head_dim: int, context_length: int, capacity: int) -> None:
        self.context_length = context_length
        self.length = 0
        self.generation = 0
        """Changes when the buffers do: who has bound them has to bind them again."""
        self._layers = layers
        self._shape = (1, kv_heads, 0, head_dim)
        self._buffers: dict[str, np.ndarray] = {}
        self.reserve(capacity)

    @property
    def capacity(self) -> int:
        """Tokens that the buffers have room for."""
        return next(iter(self._buffers.values())).shape[2] if self._buffers else 0

    @property
    def bytes_per_token(self) -> int:
        """Size of one token's keys and values, over all layers."""
        return cache_bytes_per_token(self._layers, self._shape[1], self._shape[3])

    @property
    def buffers(self) -> Mapping[str, np.ndarray]:
        """The whole buffers by the name of the input they are bound to, float32 [1, kv heads, capacity, head dim]."""
        return self._buffers

    def reserve(self, tokens: int) -> None:
        """Make room for that many tokens in all; doubles, so that growing costs little over a long answer.

        Raises
        ------
        ContextExceeded
            Where the model's context is shorter.
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
        grown = {}
        for _, _, name in past_names(self._layers):
            # Zeros, not empty: a kernel may multiply what lies behind the last token by a weight of 0.
            buffer = np.zeros((batch, heads, capacity, dim), np.float32)
            if name in self._buffers:
                buffer[:, :, : self.length] = self._buffers[name][:, :, : self.length]
            grown[name] = buffer
        self._buffers = grown
        self.generation += 1

    def write(self, name: str, fresh: np.ndarray, start: int) -> None:
        """Copy keys or values of some tokens, float32 or bfloat16, to their place."""
        place = self._buffers[name][:, :, start : start + fresh.shape[2]]
        if fresh.dtype == dtype_of("bfloat16"):
            # The upper half of a float32; in integers numpy converts many at a time, where ml_dtypes goes one by one.
            bits = place.view(np.uint32)
            np.copyto(bits, fresh.view(np.uint16))
            np.left_shift(bits, 16, out=bits)
        else:
            place[...] = fresh

    def filled(self) -> dict[str, np.ndarray]:
        """Views of what the buffers hold so far, [1, kv heads, length, head dim]."""
        return {name: buffer[:, :, : self.length] for name, buffer in self._buffers.items()}

    def clear(self) -> None:
        """Forget all tokens; the buffers stay."""
        self.length = 0
