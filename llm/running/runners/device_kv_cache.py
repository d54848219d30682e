"""The KV cache in the memory of a device that has its own: one buffer per layer and part, read and extended there."""

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
    batch : int
        Number of sequences, all of one length.
    """

    def __init__(self, device: Device, layers: Sequence[KvLayer], batch: int) -> None:
        self._first_rows = {
            name: np.zeros(layer.shape(batch, 1), dtype_of(layer.dtype)) for layer in layers for name in layer.names
        }
        module = engines.load(cache_rows_graph({n: zeros.dtype.name for n, zeros in self._first_rows.items()}), device)
        if not isinstance(module, DeviceModule):
            module.close()
            raise EngineFailed(
                f"{device.id} keeps no tensors in memory of its own", remedy="choose another device", device=device.id
            )
        self.device = device
        self.length = 0
        self.capacity = 0
        self.generation = 0
        """Incremented whenever the buffers are reallocated: bindings to them have to be renewed."""
        self.buffers: Mapping[str, DeviceArray] = {}
        """By name of the input that they are bound to, [batch, kv heads, capacity, head dim]."""
        self._rows = module

    def reserve(self, tokens: int, limit: int) -> None:
        """Grow the buffers to hold `tokens` tokens in total; at least doubles them, up to `limit`.

        The filled rows are copied on the device.
        """
        if tokens <= self.capacity:
            return
        capacity = max(tokens, min(2 * self.capacity, limit))
        if self.length:
            self._replace(self.buffers, self.length, capacity)
        else:
            self._replace({n: self._rows.upload(n, zeros) for n, zeros in self._first_rows.items()}, 1, capacity)

    def import_rows(self, cache: KvCache) -> None:
        """Copy all tokens of a cache in host memory to the device: only their rows, into buffers of its capacity."""
        rows = {name: self._rows.upload(name, np.ascontiguousarray(values)) for name, values in cache.filled().items()}
        self.length = cache.length
        if self.length:
            self._replace(rows, self.length, max(self.capacity, cache.capacity))

    def export_rows(self, cache: KvCache, start: int) -> None:
        """Copy the tokens from position `start` on to a cache in host memory."""
        cache.reserve(self.length)
        for name, rows in self._copy(self.buffers, start, self.length, 0).items():
            values = np.empty(rows.shape, rows.dtype)
            rows.download(values)
            cache.write(name, values, start)
        cache.length = self.length

    def close(self) -> None:
        """Free the buffers."""
        self.buffers, self.capacity, self.length = {}, 0, 0
        self._rows.close()

    def _replace(self, source: Mapping[str, DeviceArray], length: int, capacity: int) -> None:
        self.buffers = self._copy(source, 0, length, capacity - length)
        self.capacity = capacity
        self.generation += 1

    def _copy(self, source: Mapping[str, DeviceArray], start: int, end: int, zeros: int) -> dict[str, DeviceArray]:
        """Return copies of the rows from `start` to `end`, with rows of zeros behind them."""
        numbers = {
            "start": np.array([start], np.int64),
            "end": np.array([end], np.int64),
            "padding": np.array([0, 0, 0, 0, 0, 0, zeros, 0], np.int64),
        }
        try:
            feeds = dict(source) | {name: self._rows.upload(name, value) for name, value in numbers.items()}
            outputs = self._rows.run_on_device(feeds)
        except OutOfMemory as error:
            tokens = end - start + zeros
            size = tokens * sum(row.nbytes for row in self._first_rows.values())
            raise OutOfMemory(
                f"{self.device.id} has no memory for keys and values of {tokens} tokens, {size:,} bytes",
                remedy="ask for fewer tokens, take --kv-dtype float16, or choose another device",
            ) from error
        return {name: cast("DeviceArray", outputs[f"{name}.rows"]) for name in self._first_rows}
