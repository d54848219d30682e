"""Computes on buffers of the KV cache in the memory of a device that has its own, such as a GPU."""

from __future__ import annotations

import time

import numpy as np

from trisect.runtime.engines.base import BindableDeviceModule, DeviceArray, DeviceBinding
from trisect.runtime.errors import EngineFailed

from ..kv_cache import KvCache
from ..kv_layer import present_name
from .device_kv_cache import DeviceKvCache
from .runner import Runner, cancel_run, last_scores


class DeviceRunner(Runner):
    """Reads and extends a `DeviceKvCache` in place; copies rows of a `KvCache` in and out when devices change."""

    def __init__(
        self, module: BindableDeviceModule, cache: DeviceKvCache, batch: int, vocab: int, *, exports_cache: bool
    ) -> None:
        self.device = module.device
        self.handover_s = 0.0
        self.cache = cache
        self._module = module
        self._exports_cache = exports_cache
        self._is_exporting = False
        self._host: KvCache | None = None
        self._logits = np.zeros((batch, 1, vocab), np.float32)
        rank = next(len(spec.shape) for spec in module.outputs if spec.name == "logits")
        self._logits_shape = self._logits.shape[-rank:]  # without the axis of size 1, see `recordable_graph`
        self._last = np.zeros(batch, np.int32)
        self._total = np.zeros((), np.int32)
        self._token = np.zeros((batch, 1), np.int64)
        self._step: DeviceBinding | None = None
        self._generation = -1
        self._shortest = 0
        """Number of tokens that the buffers can be cut to; see `KvCache.shortest_rewind`."""

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        host, cache = self._host, self.cache
        if host is None:
            raise EngineFailed(
                f"the runner on {self.device.id} has no cache", remedy="reset it first", device=self.device.id
            )
        count = ids.shape[-1]
        host.check_context(start + count)
        cache.length = start
        cache.reserve(start + count, host.context_length)
        self._last[:] = start + count - 1
        self._total[...] = start + count
        if count == 1:
            self._token[:, 0] = ids[..., 0]
            self.step_binding().run()
        else:
            self._bind(np.ascontiguousarray(np.atleast_2d(ids), np.int64)).run()
        cache.length = start + count
        if self._is_exporting:
            begin = time.perf_counter()
            cache.export_rows(host, start)
            self.handover_s += time.perf_counter() - begin
        return last_scores(self._logits, ids)

    def step_binding(self) -> DeviceBinding:
        """Return the buffers of a run of one token, bound until the cache grows."""
        if self._step is None or self._generation != self.cache.generation:
            self._step, self._generation = self._bind(self._token, repeats=True), self.cache.generation
        return self._step

    def continue_from(self, cache: KvCache) -> None:
        begin = time.perf_counter()
        self._host, self._is_exporting = cache, False
        self.cache.import_rows(cache)
        self._shortest = cache.shortest_rewind
        self.handover_s += time.perf_counter() - begin

    def reset(self, cache: KvCache) -> None:
        self._host, self._is_exporting = cache, self._exports_cache
        self.cache.length = self._shortest = 0
        self.cache.reserve(cache.capacity, cache.context_length)

    def rewind(self, length: int) -> int:
        if self._host is None or length < self._shortest:
            return 0
        self.cache.length = length
        if self._is_exporting and not self._host.rewind(length):
            begin = time.perf_counter()
            self._host.clear()
            self.cache.export_rows(self._host, 0)
            self.handover_s += time.perf_counter() - begin
        return length

    def cancel(self) -> None:
        cancel_run(self._module)

    def close(self) -> None:
        self._step = self._host = None
        self.cache.close()
        self._module.close()

    def _bind(self, ids: np.ndarray, *, repeats: bool = False) -> DeviceBinding:
        buffers = self.cache.buffers
        presents = {present_name(name): buffer for name, buffer in buffers.items()}
        inputs: dict[str, np.ndarray | DeviceArray] = {
            "input_ids": ids,
            "seqlens_k": self._last,
            "total_sequence_length": self._total,
            **buffers,
        }
        logits = self._logits.reshape(self._logits_shape)
        return self._module.bind_on_device(inputs, {"logits": logits, **presents}, repeats=repeats)
