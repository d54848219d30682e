"""The KV cache in host memory: keys and values after rotation, one buffer per layer and part.

Devices exchange the cache in this form. A runner whose engine works in place computes on these buffers directly; any
other copies from and to them. The layout is [batch, kv heads, tokens, head dim] for all engines, with the sizes and the
dtype of each layer's `KvLayer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trisect.runtime.errors import ContextExceeded
from trisect.runtime.tensors.dtypes import dtype_of

from .kv_layer import KvLayer
from .recurrent_state import RecurrentState, RecurrentStates

_STEP_TOKENS = 256


class KvCache:
    """Keys and values of the tokens computed so far, in growing buffers.

    Parameters
    ----------
    layers : sequence of KvLayer
    context_length : int
        Maximum number of tokens.
    capacity : int
        Tokens to allocate for at first.
    batch : int
        Number of sequences, all of one length.
    states : sequence of RecurrentState
        What layers without attention keep.

    Examples
    --------
    >>> cache = KvCache([KvLayer(0, kv_heads=2, head_dim=4)], context_length=1024, capacity=10)
    >>> cache.capacity, cache.length
    (256, 0)
    """

    def __init__(
        self,
        layers: Sequence[KvLayer],
        context_length: int,
        capacity: int,
        *,
        batch: int = 1,
        states: Sequence[RecurrentState] = (),
    ) -> None:
        self.layers = tuple(layers)
        self.states = RecurrentStates(states, batch)
        self.context_length = context_length
        self.capacity = 0
        """Number of tokens that fit into the buffers."""
        self.length = 0
        self.generation = 0
        """Incremented whenever the buffers are reallocated: bindings to them have to be renewed."""
        self._batch = batch
        self._buffers: dict[str, np.ndarray] = {}
        self.reserve(capacity)

    @property
    def buffers(self) -> Mapping[str, np.ndarray]:
        """The buffers by name of the input they are bound to, [batch, kv heads, capacity, head dim]."""
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
        self.capacity = min(-(-wanted // _STEP_TOKENS) * _STEP_TOKENS, self.context_length)
        buffers = {}
        for layer in self.layers:
            for name in layer.names:
                # Zeros, not empty: a kernel may multiply what lies behind the last token by a weight of 0.
                buffer = np.zeros(layer.shape(self._batch, self.capacity), dtype_of(layer.dtype))
                if name in self._buffers:
                    buffer[:, :, : self.length] = self._buffers[name][:, :, : self.length]
                buffers[name] = buffer
        self._buffers = buffers
        self.generation += 1

    def write(self, name: str, values: np.ndarray, start: int) -> None:
        """Copy keys or values, floats [batch, kv heads, tokens, head dim], to position `start`.

        Another dtype than the buffer's is converted; a wider one is rounded once.
        """
        _convert(values, self._buffers[name][:, :, start : start + values.shape[2]])

    def filled(self) -> dict[str, np.ndarray]:
        """Return views of the filled part of the buffers, [batch, kv heads, length, head dim]."""
        return {name: buffer[:, :, : self.length] for name, buffer in self._buffers.items()}

    def clear(self) -> None:
        """Remove all tokens; the buffers stay allocated."""
        self.length = 0
        self.states.clear()


def _convert(values: np.ndarray, target: np.ndarray) -> None:
    """Copy values into an array of another dtype."""
    if values.dtype != dtype_of("bfloat16"):
        target[...] = values
        return
    # The upper half of a float32; numpy converts integers vectorised, while ml_dtypes converts one by one.
    wide = target if target.dtype == np.float32 else np.empty(target.shape, np.float32)
    bits = wide.view(np.uint32)
    np.copyto(bits, values.view(np.uint16))
    np.left_shift(bits, 16, out=bits)
    if wide is not target:
        target[...] = wide
