"""The KV cache in the memory of a device that has its own: one buffer per layer and part, read and extended there.

The buffers of layers with a sliding window hold all tokens too. Only those of the window cross from and to the host,
whose cache has no others: zeros take the place of the rest, which no token sees any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import DeviceArray, DeviceModule
from trisect.runtime.errors import EngineFailed, OutOfMemory
from trisect.runtime.tensors.dtypes import dtype_of

from ..kv_cache import KvCache
from ..kv_layer import KvLayer
from .cache_rows_graph import cache_rows_graph


class DeviceKvCache:
    """Keys and values of the tokens computed so far, in buffers on a device.

    Parameters
    ----------
    layers : sequence of KvLayer
        As in host memory.
    batch : int
        Number of sequences, all of one length.
    """

    def __init__(self, device: Device, layers: Sequence[KvLayer], batch: int) -> None:
        self.device = device
        self.length = 0
        self.capacity = 0
        self.generation = 0
        """Incremented whenever the buffers are reallocated: bindings to them have to be renewed."""
        self.buffers: Mapping[str, DeviceArray] = {}
        """By name of the input that they are bound to, [batch, kv heads, capacity, head dim]."""
        self._groups: list[_LayerGroup] = []  # by window
        windows: dict[int | None, list[KvLayer]] = {}
        for layer in layers:
            windows.setdefault(layer.window, []).append(layer)
        try:
            for group in windows.values():
                self._groups.append(_LayerGroup(device, group, batch))
        except BaseException:
            self.close()
            raise

    def reserve(self, tokens: int, limit: int) -> None:
        """Grow the buffers to hold `tokens` tokens in total; at least doubles them, up to `limit`.

        The filled rows are copied on the device.
        """
        if tokens <= self.capacity:
            return
        capacity = max(tokens, min(2 * self.capacity, limit))
        buffers: dict[str, DeviceArray] = {}
        for group in self._groups:
            if self.length:
                buffers |= group.copy(self.buffers, 0, self.length, after=capacity - self.length)
            else:
                buffers |= group.copy(group.upload(group.first_rows), 0, 1, after=capacity - 1)
        self._replace(buffers, capacity)

    def import_rows(self, cache: KvCache) -> None:
        """Copy all tokens of a cache in host memory to the device: only their rows, into buffers of its capacity."""
        self.length = cache.length
        if not self.length:
            return
        capacity = max(self.capacity, cache.capacity)
        buffers: dict[str, DeviceArray] = {}
        rows = cache.filled()
        for group in self._groups:
            held = rows[group.names[0]].shape[2]
            uploaded = group.upload({name: np.ascontiguousarray(rows[name]) for name in group.names})
            buffers |= group.copy(uploaded, 0, held, before=self.length - held, after=capacity - self.length)
        self._replace(buffers, capacity)

    def export_rows(self, cache: KvCache, start: int) -> None:
        """Copy the tokens from position `start` on to a cache in host memory that has all others."""
        cache.reserve(self.length)
        for group in self._groups:
            first = max(start, group.layer.first_position(self.length))
            for name, rows in group.copy(self.buffers, first, self.length).items():
                values = np.empty(rows.shape, rows.dtype)
                rows.download(values)
                cache.write(name, values, first)
        cache.length = self.length

    def close(self) -> None:
        """Free the buffers."""
        self.buffers, self.capacity, self.length = {}, 0, 0
        for group in self._groups:
            group.module.close()
        self._groups = []

    def _replace(self, buffers: Mapping[str, DeviceArray], capacity: int) -> None:
        self.buffers = buffers
        self.capacity = capacity
        self.generation += 1


class _LayerGroup:
    """The layers with the same window, whose rows are copied at once."""

    def __init__(self, device: Device, layers: Sequence[KvLayer], batch: int) -> None:
        self.layer = layers[0]
        self.names = [name for layer in layers for name in layer.names]
        self.first_rows = {
            name: np.zeros(layer.shape(batch, 1), dtype_of(layer.dtype)) for layer in layers for name in layer.names
        }
        module = engines.load(cache_rows_graph({n: zeros.dtype.name for n, zeros in self.first_rows.items()}), device)
        if not isinstance(module, DeviceModule):
            module.close()
            raise EngineFailed(
                f"{device.id} keeps no tensors in memory of its own", remedy="choose another device", device=device.id
            )
        self.module = module

    def upload(self, rows: Mapping[str, np.ndarray]) -> dict[str, DeviceArray]:
        return {name: self.module.upload(name, values) for name, values in rows.items()}

    def copy(
        self, source: Mapping[str, DeviceArray], start: int, end: int, *, before: int = 0, after: int = 0
    ) -> dict[str, DeviceArray]:
        """Return copies of the rows from `start` to `end`, with rows of zeros before and after them."""
        numbers = {
            "start": np.array([start], np.int64),
            "end": np.array([end], np.int64),
            "padding": np.array([0, 0, before, 0, 0, 0, after, 0], np.int64),
        }
        try:
            outputs = self.module.run_on_device({name: source[name] for name in self.names} | self.upload(numbers))
        except OutOfMemory as error:
            tokens = before + end - start + after
            size = tokens * sum(row.nbytes for row in self.first_rows.values())
            raise OutOfMemory(
                f"{self.module.device.id} has no memory for keys and values of {tokens} tokens, {size:,} bytes",
                remedy="ask for fewer tokens, take --kv-dtype float16, or choose another device",
            ) from error
        return {name: cast("DeviceArray", outputs[f"{name}.rows"]) for name in self.names}
