"""The KV cache in host memory: keys and values after rotation, one buffer per layer and part.

Devices exchange the cache in this form. A runner whose engine works in place computes on these buffers directly; any
other copies from and to them. The layout is [batch, kv heads, tokens, head dim] for all engines, with the sizes and the
dtype of each layer's `KvLayer`. The buffer of a layer with a window holds the latest tokens only, in the layout that
`KvLayer.first_position` describes.
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
        self._allocated = 0
        self._layer_of = {name: layer for layer in self.layers for name in layer.names}
        self.reserve(capacity)

    @property
    def buffers(self) -> Mapping[str, np.ndarray]:
        """The buffers by name of the input they are bound to, [batch, kv heads, rows, head dim].

        They are allocated when they are needed first: where an engine keeps the cache itself, they never are.
        """
        if self._allocated < self.capacity:
            self._allocate()
        return self._buffers

    def reserve(self, tokens: int) -> None:
        """Let the buffers grow to hold `tokens` tokens in total; at least doubles them, to limit copying.

        Raises
        ------
        ContextExceeded
            If the model's context is shorter.
        """
        self.check_context(tokens)
        if tokens <= self.capacity:
            return
        wanted = max(tokens, 2 * self.capacity)
        self.capacity = min(-(-wanted // _STEP_TOKENS) * _STEP_TOKENS, self.context_length)
        self.generation += 1

    def check_context(self, tokens: int) -> None:
        """Raise `ContextExceeded` if the model's context is shorter than `tokens`."""
        if tokens > self.context_length:
            raise ContextExceeded(
                f"{tokens} tokens do not fit into the model's context of {self.context_length}",
                remedy="shorten the prompt or ask for fewer new tokens",
            )

    def write(self, name: str, values: np.ndarray, start: int) -> None:
        """Copy keys or values, floats [batch, kv heads, tokens, head dim], to position `start`, behind all others.

        Another dtype than the buffer's is converted; a wider one is rounded once. Of a layer with a window, only what
        the buffer holds after these tokens is copied.
        """
        layer, buffer, end = self._layer_of[name], self.buffers[name], start + values.shape[2]
        before, after = layer.first_position(start), layer.first_position(end)
        if before < after < start:
            buffer[:, :, : start - after] = buffer[:, :, after - before : start - before]
        first = max(start, after)
        _convert(values[:, :, first - start :], buffer[:, :, first - after : end - after])

    def filled(self) -> dict[str, np.ndarray]:
        """Return views of the tokens in the buffers, [batch, kv heads, tokens, head dim].

        Of a layer with a window these are the latest ones, as many as the window has.
        """
        result = {}
        for name, buffer in self.buffers.items():
            layer = self._layer_of[name]
            held = self.length if layer.window is None else min(self.length, layer.window)
            end = self.length - layer.first_position(self.length)
            result[name] = buffer[:, :, end - held : end]
        return result

    def full_length(self) -> dict[str, np.ndarray]:
        """Return float32 copies for graphs whose caches hold all tokens: zeros for those that left a window."""
        result = {}
        for name, values in self.filled().items():
            if values.shape[2] == self.length:
                result[name] = np.ascontiguousarray(values, np.float32)
                continue
            result[name] = np.zeros(self._layer_of[name].shape(self._batch, self.length), np.float32)
            result[name][:, :, self.length - values.shape[2] :] = values
        return result

    @property
    def shortest_rewind(self) -> int:
        """Number of tokens that a copy of `filled` can be cut to: in a window, fewer need tokens that have left it."""
        windows = [layer.window for layer in self.layers if layer.window is not None and layer.window < self.length]
        return self.length - 1 if windows else 0

    def rewind(self, length: int) -> bool:
        """Remove all tokens but the first `length`; False, and no change, if a window has lost what they need.

        Recurrent states cannot be taken back at all.
        """
        if self.states and length != self.length:
            return False
        moves = []
        for layer in self.layers:
            first, target = layer.first_position(self.length), layer.first_position(length)
            if first > layer.first_needed(length):
                return False
            if first > target:
                moves.append((layer, first - target, length - first))
        for layer, shift, rows in moves:
            for name in layer.names:
                buffer = self.buffers[name]
                buffer[:, :, shift : shift + rows] = buffer[:, :, :rows]
                buffer[:, :, :shift] = 0
        self.length = length
        return True

    def clear(self) -> None:
        """Remove all tokens; the buffers stay allocated."""
        self.length = 0
        self.states.clear()

    def _allocate(self) -> None:
        buffers = {}
        for layer in self.layers:
            for name in layer.names:
                if name in self._buffers and layer.window is not None:  # it never grows
                    buffers[name] = self._buffers[name]
                    continue
                # Zeros, not empty: a kernel may multiply what lies behind the last token by a weight of 0.
                buffer = np.zeros(layer.shape(self._batch, layer.rows(self.capacity)), dtype_of(layer.dtype))
                if name in self._buffers:
                    buffer[:, :, : self.length] = self._buffers[name][:, :, : self.length]
                buffers[name] = buffer
        self._buffers = buffers
        self._allocated = self.capacity


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
