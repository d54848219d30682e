"""Passes the KV cache from one run of a graph to the next, on any engine."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from trisect.runtime.engines.base import Module

from ..kv_cache import KvCache
from ..kv_layer import KvLayer, present_name
from .runner import Runner, cancel_run, export_all, last_scores, plain_feeds


class GrowingRunner(Runner):
    """Passes the presents of one run to the next as its past, by reference."""

    def __init__(self, module: Module, layers: Sequence[KvLayer], batch: int, *, exports_cache: bool) -> None:
        self.device = module.device
        self.handover_s = 0.0
        self._module = module
        self._inputs = {spec.name for spec in module.inputs}
        self._empty = {name: np.zeros(layer.shape(batch, 0), np.float32) for layer in layers for name in layer.names}
        self._past = self._empty
        self._exports_cache = exports_cache
        self._cache: KvCache | None = None
        self._shortest = 0

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        outputs = self._module.run(plain_feeds(self._inputs, ids, start) | self._past)
        self._past = {name: outputs[present_name(name)] for name in self._empty}
        if self._cache is not None:
            begin = time.perf_counter()
            self._cache.reserve(start + ids.shape[-1])
            for name, present in self._past.items():
                self._cache.write(name, present[:, :, start:], start)
            self._cache.length = start + ids.shape[-1]
            self.handover_s += time.perf_counter() - begin
        return last_scores(outputs["logits"], ids)

    def continue_from(self, cache: KvCache) -> None:
        begin = time.perf_counter()
        self._past = cache.full_length()
        self._shortest = cache.shortest_rewind
        self._cache = None
        self.handover_s += time.perf_counter() - begin

    def reset(self, cache: KvCache) -> None:
        self._past = self._empty
        self._shortest = 0
        self._cache = cache if self._exports_cache else None

    def rewind(self, length: int) -> int:
        if length < self._shortest:
            return 0
        self._past = {name: np.ascontiguousarray(past[:, :, :length]) for name, past in self._past.items()}
        if self._cache is not None and not self._cache.rewind(length):
            export_all(self._cache, self._past)
        return length

    def cancel(self) -> None:
        cancel_run(self._module)

    def close(self) -> None:
        self._past = {}
        self._cache = None
        self._module.close()
