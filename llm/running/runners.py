"""Runs a language model's graph on one device, with the way of keeping the KV cache that its engine supports.

A `Runner` computes the scores (logits) after further tokens. There are three, chosen by the engine's capabilities:

- `InPlaceRunner`: the graph reads and extends the buffers of a `KvCache` in place (GroupQueryAttention);
- `StatefulRunner`: the engine keeps the cache inside the compiled model;
- `GrowingRunner`: past in, present out, passed by reference; works with any graph on any engine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import Binding, LoadOptions, Module, StatefulModule
from trisect.runtime.errors import EngineFailed
from trisect.runtime.tensors.dtypes import dtype_of
from trisect.runtime.tensors.external_data import check_model_file

from ..bundle import Bundle
from .kv_cache import KvCache, fresh_name, past_names, present_name

_SPIN_LIMIT_US = 1000


class Runner(Protocol):
    """A language model loaded on one device."""

    device: Device
    handover_s: float
    """Time spent so far on copying keys and values from or to a `KvCache`."""

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        """Return the scores after tokens that follow `start` earlier ones.

        Parameters
        ----------
        ids : ndarray
            int64 [n], or [batch, n] on a runner loaded for a batch.

        Returns
        -------
        ndarray
            float32 [vocabulary] or [batch, vocabulary]; overwritten by the next call.
        """

    def continue_from(self, cache: KvCache) -> None:
        """Continue from a cache that another runner filled."""

    def reset(self, cache: KvCache) -> None:
        """Start a new sequence; a runner loaded with `exports_cache` writes its keys and values to this cache."""

    def rewind(self, length: int) -> int:
        """Forget all tokens but the first `length`, and return how many are left: 0 where an engine has to reset."""

    def close(self) -> None:
        """Release the device's memory."""


def load_runner(
    bundle: Bundle,
    device: Device,
    *,
    threads: int | None = None,
    precision: str = "fast",
    decodes: bool,
    exports_cache: bool,
    batch: int = 1,
) -> Runner:
    """Load the bundle's graph that suits a device.

    Parameters
    ----------
    decodes : bool
        It will compute single tokens too: idle threads may spin in between.
    exports_cache : bool
        Another runner will continue from the keys and values that this one computes.
    batch : int
        Number of sequences that the graph takes.

    Raises
    ------
    InvalidModel
        If the bundle has no graph for the device's engine, or the graph is damaged or refers to other files.
    EngineFailed
        If the engine cannot load the graph.
    """
    graph = bundle.graph_for(device)
    path = Path(bundle.folder) / graph.file
    check_model_file(path)
    shape = (batch, bundle.kv_heads, 0, bundle.head_dim)
    past = past_names(bundle.layers)
    if graph.cache == "in-place":
        # Prefill and decode alternate, so spinning delays the other engine by the last millisecond at most.
        options = LoadOptions(threads=threads, precision=precision, spin=decodes, spin_limit_us=_SPIN_LIMIT_US)
        return InPlaceRunner(engines.load(path, device, options), batch, bundle.vocab)
    state = {name: present_name(name) for name in past}
    if not engines.capabilities(device).internal_state:
        options = LoadOptions(threads=threads, precision=precision, spin=decodes, outputs=("logits", *state.values()))
        return GrowingRunner(engines.load(path, device, options), past, shape, exports_cache=exports_cache)
    fresh = tuple(map(fresh_name, past)) if graph.fresh and exports_cache else ()
    options = LoadOptions(
        threads=threads, precision=precision, state=state, outputs=("logits", *fresh), native_outputs=fresh,
        scale_group=graph.scale_group,
    )  # fmt: skip
    module = engines.load(path, device, options)
    if not isinstance(module, StatefulModule):
        raise EngineFailed(
            f"{device.id} did not keep the KV cache inside the model", remedy="choose another device", device=device.id
        )
    return StatefulRunner(module, past, shape, bundle.vocab, exports_cache=exports_cache)


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
        self._step: Binding | None = None
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
            if self._step is None or self._generation != cache.generation:
                self._step, self._generation = self._bind(self._token, cache), cache.generation
            self._token[:, 0] = ids[..., 0]
            self._step.run()
        else:
            self._bind(np.ascontiguousarray(np.atleast_2d(ids)), cache).run()
        cache.length = start + count
        return _scores(self._logits, ids)

    def continue_from(self, cache: KvCache) -> None:
        if cache is not self._cache:
            self._cache, self._step = cache, None

    def reset(self, cache: KvCache) -> None:
        self.continue_from(cache)

    def rewind(self, length: int) -> int:
        if self._cache is None:
            return 0
        self._cache.length = length
        return length

    def close(self) -> None:
        self._step = self._cache = None
        self.module.close()

    def _bind(self, ids: np.ndarray, cache: KvCache) -> Binding:
        presents = {present_name(name): buffer for name, buffer in cache.buffers.items()}
        inputs = {"input_ids": ids, "seqlens_k": self._last, "total_sequence_length": self._total, **cache.buffers}
        return self.module.bind(inputs, {"logits": self._logits, **presents})


class StatefulRunner(Runner):
    """Lets the engine keep the cache; copies it out after each run, or in before the first decode step."""

    def __init__(
        self,
        module: StatefulModule,
        past: Sequence[str],
        shape: tuple[int, int, int, int],
        vocab: int,
        *,
        exports_cache: bool,
    ) -> None:
        self.device = module.device
        self.handover_s = 0.0
        self._module = module
        self._past = past
        self._inputs = {spec.name for spec in module.inputs}
        self._fresh = {spec.name: dtype_of(spec.dtype) for spec in module.outputs if spec.name.startswith("fresh.")}
        self._exports_cache = exports_cache
        self._shape = shape
        self._buffers: dict[str, np.ndarray] = {}
        self._logits = np.zeros((shape[0], 1, vocab), np.float32)
        self._cache: KvCache | None = None
        self._length = 0

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        count = ids.shape[-1]
        fresh = {name: self._output_buffer(name, count) for name in self._fresh}
        binding = self._module.bind(_feeds(self._inputs, ids, start), {"logits": self._logits, **fresh})
        binding.run()
        self._length = start + count
        if self._cache is not None:
            begin = time.perf_counter()
            self._export(self._cache, fresh, start, count)
            self.handover_s += time.perf_counter() - begin
        return _scores(self._logits, ids)

    def continue_from(self, cache: KvCache) -> None:
        begin = time.perf_counter()
        self._module.reset_state()
        self._module.set_state(cache.filled())
        self._length = cache.length
        self._cache = None
        self.handover_s += time.perf_counter() - begin

    def reset(self, cache: KvCache) -> None:
        self._module.reset_state()
        self._length = 0
        self._cache = cache if self._exports_cache else None

    def rewind(self, length: int) -> int:
        if length < self._length:
            begin = time.perf_counter()
            values = self._module.get_state()
            self._module.reset_state()
            self._module.set_state({name: np.ascontiguousarray(value[:, :, :length]) for name, value in values.items()})
            self._length = length
            self.handover_s += time.perf_counter() - begin
        return length

    def close(self) -> None:
        self._cache = None
        self._module.close()

    def _output_buffer(self, name: str, count: int) -> np.ndarray:
        """Return an array for an output, reused between runs: touching new memory costs more than writing to it."""
        batch, heads, _, dim = self._shape
        size = batch * heads * count * dim
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name] = np.empty(size, self._fresh[name])
        return buffer[:size].reshape(batch, heads, count, dim)

    def _export(self, cache: KvCache, fresh: dict[str, np.ndarray], start: int, count: int) -> None:
        cache.reserve(start + count)
        if fresh:
            for name in self._past:
                cache.write(name, fresh[fresh_name(name)], start)
        else:
            for name, values in self._module.get_state().items():
                cache.write(name, values[:, :, start:], start)
        cache.length = start + count


class GrowingRunner(Runner):
    """Passes the presents of one run to the next as its past, by reference."""

    def __init__(
        self, module: Module, past: Sequence[str], shape: tuple[int, int, int, int], *, exports_cache: bool
    ) -> None:
        self.device = module.device
        self.handover_s = 0.0
        self._module = module
        self._inputs = {spec.name for spec in module.inputs}
        self._empty = dict.fromkeys(past, np.zeros(shape, np.float32))
        self._past = self._empty
        self._exports_cache = exports_cache
        self._cache: KvCache | None = None

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        outputs = self._module.run(_feeds(self._inputs, ids, start) | self._past)
        self._past = {name: outputs[present_name(name)] for name in self._empty}
        if self._cache is not None:
            begin = time.perf_counter()
            self._cache.reserve(start + ids.shape[-1])
            for name, present in self._past.items():
                self._cache.write(name, present[:, :, start:], start)
            self._cache.length = start + ids.shape[-1]
            self.handover_s += time.perf_counter() - begin
        return _scores(outputs["logits"], ids)

    def continue_from(self, cache: KvCache) -> None:
        begin = time.perf_counter()
        self._past = {name: np.ascontiguousarray(past) for name, past in cache.filled().items()}
        self._cache = None
        self.handover_s += time.perf_counter() - begin

    def reset(self, cache: KvCache) -> None:
        self._past = self._empty
        self._cache = cache if self._exports_cache else None

    def rewind(self, length: int) -> int:
        self._past = {name: np.ascontiguousarray(past[:, :, :length]) for name, past in self._past.items()}
        return length

    def close(self) -> None:
        self._past = {}
        self._cache = None
        self._module.close()


def _feeds(inputs: set[str], ids: np.ndarray, start: int) -> dict[str, np.ndarray]:
    """Return the inputs other than the cache, of those that the graph has."""
    rows = np.ascontiguousarray(np.atleast_2d(ids), np.int64)
    batch, count = rows.shape
    feeds = {"input_ids": rows}
    if "position_ids" in inputs:
        feeds["position_ids"] = np.tile(np.arange(start, start + count, dtype=np.int64), (batch, 1))
    if "seqlens_k" in inputs:
        feeds["seqlens_k"] = np.full(batch, start + count - 1, np.int32)
        feeds["total_sequence_length"] = np.array(start + count, np.int32)
    if "attention_mask" in inputs:
        feeds["attention_mask"] = np.ones((batch, start + count), np.int64)
    return feeds


def _scores(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the last token's scores: without the batch axis where the ids have none."""
    scores: np.ndarray = logits[0, -1] if ids.ndim == 1 else logits[:, -1]
    return scores
