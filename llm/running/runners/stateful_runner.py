"""Leaves the KV cache inside the compiled model of an engine, and copies it in and out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from trisect.runtime.engines.base import StatefulModule
from trisect.runtime.tensors.dtypes import dtype_of

from ..kv_cache import KvCache
from ..kv_layer import KvLayer, fresh_name
from .runner import Runner, cancel_run, export_all, last_scores, plain_feeds


class StatefulRunner(Runner):
    """Lets the engine keep the cache; copies it out after each run, or in before the first decode step."""

    def __init__(
        self,
        module: StatefulModule,
        layers: Sequence[KvLayer],
        batch: int,
        vocab: int,
        *,
        exports_cache: bool,
    ) -> None:
        self.device = module.device
        self.handover_s = 0.0
        self._module = module
        self._inputs = {spec.name for spec in module.inputs}
        dtypes = {spec.name: dtype_of(spec.dtype) for spec in module.outputs}
        fresh = ((name, fresh_name(name), layer) for layer in layers for name in layer.names)
        self._fresh = {name: (output, layer, dtypes[output]) for name, output, layer in fresh if output in dtypes}
        self._exports_cache = exports_cache
        self._batch = batch
        self._buffers: dict[str, np.ndarray] = {}
        self._logits = np.zeros((batch, 1, vocab), np.float32)
        self._cache: KvCache | None = None
        self._length = 0
        self._shortest = 0
        """Number of tokens that the state can be cut to; see `KvCache.shortest_rewind`."""

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        count = ids.shape[-1]
        fresh = {name: self._output_buffer(name, count) for name in self._fresh}
        outputs = {self._fresh[name][0]: buffer for name, buffer in fresh.items()}
        binding = self._module.bind(plain_feeds(self._inputs, ids, start), {"logits": self._logits, **outputs})
        self._length = start + count  # also of a run that is cancelled: some layers have its tokens then
        binding.run()
        if self._cache is not None:
            begin = time.perf_counter()
            self._export(self._cache, fresh, start, count)
            self.handover_s += time.perf_counter() - begin
        return last_scores(self._logits, ids)

    def continue_from(self, cache: KvCache) -> None:
        begin = time.perf_counter()
        self._module.reset_state()
        self._module.set_state(cache.full_length())
        self._length, self._shortest = cache.length, cache.shortest_rewind
        self._cache = None
        self.handover_s += time.perf_counter() - begin

    def reset(self, cache: KvCache) -> None:
        self._module.reset_state()
        self._length = self._shortest = 0
        self._cache = cache if self._exports_cache else None

    def rewind(self, length: int) -> int:
        if length < self._shortest:
            return 0
        begin = time.perf_counter()
        is_exported = self._cache is None or self._cache.rewind(length)
        if length < self._length or not is_exported:
            values = self._module.get_state()
            values = {name: np.ascontiguousarray(value[:, :, :length]) for name, value in values.items()}
            self._module.reset_state()
            self._module.set_state(values)
            self._length = length
            if self._cache is not None and not is_exported:
                export_all(self._cache, values)
        self.handover_s += time.perf_counter() - begin
        return length

    def cancel(self) -> None:
        cancel_run(self._module)

    def close(self) -> None:
        self._cache = None
        self._module.close()

    def _output_buffer(self, name: str, count: int) -> np.ndarray:
        """Return an array for an output, reused between runs: touching new memory costs more than writing to it."""
        _, layer, dtype = self._fresh[name]
        shape = layer.shape(self._batch, count)
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name] = np.empty(size, dtype)
        return buffer[:size].reshape(shape)

    def _export(self, cache: KvCache, fresh: dict[str, np.ndarray], start: int, count: int) -> None:
        cache.reserve(start + count)
        if fresh:
            for name, values in fresh.items():
                cache.write(name, values, start)
        else:
            for name, values in self._module.get_state().items():
                cache.write(name, values[:, :, start:], start)
        cache.length = start + count
