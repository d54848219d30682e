"""Computes on the buffers of the KV cache in host memory."""

from __future__ import annotations

import numpy as np

from trisect.runtime.engines.base import Binding, Module
from trisect.runtime.errors import EngineFailed

from ..kv_cache import KvCache
from ..kv_layer import present_name
from .runner import Runner, cancel_run, last_scores


class InPlaceRunner(Runner):
    """Reads and extends a `KvCache` in place; a hand-over costs nothing."""

    def __init__(self, module: Module, batch: int, vocab: int) -> None:
        self.device = module.device
        self.handover_s = 0.0
        self.module = module
        self._cache: KvCache | None = None
        self._logits = np.zeros((batch, 1, vocab), np.float32)
        self._last = np.zeros(batch, np.int32)
        self._total = np.zeros((), np.int32)
        self._token = np.zeros((batch, 1), np.int64)
        self._steps: dict[int, Binding] = {}  # by the set of recurrent states that it reads
        self._generation = -1

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        cache = self._cache
        if cache is None:
            raise EngineFailed(
                f"the runner on {self.device.id} has no cache", remedy="reset it first", device=self.device.id
            )
        count = ids.shape[-1]
        cache.reserve(start + count)
        self._last[:] = start + count - 1
        self._total[...] = start + count
        if count == 1:
            if self._generation != cache.generation:
                self._steps, self._generation = {}, cache.generation
            if cache.states.current not in self._steps:
                self._steps[cache.states.current] = self._bind(self._token, cache)
            self._token[:, 0] = ids[..., 0]
            self._steps[cache.states.current].run()
        else:
            self._bind(np.ascontiguousarray(np.atleast_2d(ids)), cache).run()
        cache.length = start + count
        cache.states.advance()
        return last_scores(self._logits, ids)

    def continue_from(self, cache: KvCache) -> None:
        if cache is not self._cache:
            self._cache, self._steps = cache, {}

    def reset(self, cache: KvCache) -> None:
        self.continue_from(cache)

    def rewind(self, length: int) -> int:
        return length if self._cache is not None and self._cache.rewind(length) else 0

    def cancel(self) -> None:
        cancel_run(self.module)

    def close(self) -> None:
        self._steps, self._cache = {}, None
        self.module.close()

    def _bind(self, ids: np.ndarray, cache: KvCache) -> Binding:
        presents = {present_name(name): buffer for name, buffer in cache.buffers.items()}
        inputs = {"input_ids": ids, "seqlens_k": self._last, "total_sequence_length": self._total, **cache.buffers}
        states = cache.states
        return self.module.bind(inputs | states.inputs(), {"logits": self._logits, **presents, **states.outputs()})
