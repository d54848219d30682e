"""Runs a language model's graph on one device, whatever way that device has of keeping the KV cache.

A `Runner` computes the scores after some more tokens; where the cache lies is its own affair. Three kinds:

- `InPlaceRunner`: the graph reads and extends the buffers of a `KvCache` where they are (GroupQueryAttention);
- `StatefulRunner`: the engine keeps the cache inside the compiled model (OpenVINO);
- `GrowingRunner`: past in, present out, by reference: any graph on any engine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import Binding, LoadOptions, Module, StatefulModule
from trisect.runtime.errors import EngineFailed
from trisect.runtime.tensors.dtypes import dtype_of

from ..bundle import Bundle
from .kv_cache import KvCache, past_names

_STATEFUL_ENGINES = ("openvino",)


class Runner(Protocol):
    """A language model on one device."""

    device: Device
    handover_s: float
    """Time spent so far on copying keys and values from or to a `KvCache`."""

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        """Scores, float32 [vocabulary], after tokens int64 [n] that follow `start` earlier ones.

        The array returned is overwritten by the next call.
        """

    def take(self, cache: KvCache) -> None:
        """Continue from a cache that another runner filled."""

    def reset(self, cache: KvCache) -> None:
        """Begin anew. Of a runner loaded to share, what it computes ends up in this cache."""

    def close(self) -> None:
        """Give the device's memory back."""


def load_runner(
    bundle: Bundle, device: Device, *, threads: int | None = None, precision: str = "fast", decodes: bool, share: bool
) -> Runner:
    """Load the graph that suits a device.

    Parameters
    ----------
    bundle : Bundle
    device : Device
    threads : int, optional
    precision : {"fast", "float32"}
    decodes : bool
        It will compute single tokens too: idle threads may spin between them.
    share : bool
        Another runner will continue from what this one computes.
    """
    graph = bundle.graph_for(device.engine)
    path = Path(bundle.folder) / graph.file
    # While one device works on a request the other rests, so spinning takes nothing from it but the last millisecond.
    extra = {"session.intra_op.spin_duration_us": 1000} if device.engine == "ort" else {}
    options = LoadOptions(threads=threads, precision=precision, spin=decodes, extra=extra)
    if graph.cache == "in-place":
        if device.engine == "ort":
            return InPlaceRunner(load(path, device, options), bundle)
        raise EngineFailed(
            f"{device.id} cannot extend a KV cache in place", remedy="choose another device", device=device.id
        )
    names = [name for _, _, name in past_names(bundle.layers)]
    state = {name: name.replace("past_key_values", "present") for name in names}
    fresh = [name.replace("past_key_values", "fresh") for name in names] if graph.fresh else []
    if device.engine in _STATEFUL_ENGINES:
        wanted = ("logits", *(fresh if share else ()))
        options = LoadOptions(
            threads=threads, precision=precision, state=state, outputs=wanted, native_outputs=tuple(fresh),
            scale_group=graph.scale_group,
        )  # fmt: skip
        module = load(path, device, options)
        if not isinstance(module, StatefulModule):
            raise EngineFailed(f"{device.id} does not keep state", remedy="choose another device", device=device.id)
        return StatefulRunner(module, bundle, share=share)
    options = LoadOptions(threads=threads, precision=precision, spin=decodes, outputs=("logits", *state.values()))
    return GrowingRunner(load(path, device, options), bundle, share=share)


class InPlaceRunner:
    """Reads and extends a `KvCache` in place; handing over costs nothing."""

    def __init__(self, module: Module, bundle: Bundle) -> None:
        self.device = module.device
        self.handover_s = 0.0
        self.module = module
        self._cache: KvCache | None = None
        self._logits = np.zeros((1, 1, bundle.vocab), np.float32)
        self._last = np.zeros(1, np.int32)
        self._total = np.zeros((), np.int32)
        self._one = np.zeros((1, 1), np.int64)
        self._step: Binding | None = None
        self._generation = -1

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        """See `Runner.forward`."""
        cache = self._held()
        total = start + len(ids)
        cache.reserve(total)
        self._last[0] = total - 1
        self._total[...] = total
        if len(ids) == 1:
            if self._step is None or self._generation != cache.generation:
                self._step, self._generation = self._bind(self._one, cache), cache.generation
            self._one[0, 0] = ids[0]
            self._step.run()
        else:
            self._bind(np.ascontiguousarray(ids[None]), cache).run()
        cache.length = total
        scores: np.ndarray = self._logits[0, 0]
        return scores

    def take(self, cache: KvCache) -> None:
        """See `Runner.take`."""
        if cache is not self._cache:
            self._cache, self._step = cache, None

    def reset(self, cache: KvCache) -> None:
        """See `Runner.reset`."""
        self.take(cache)

    def close(self) -> None:
        """See `Runner.close`."""
        self._step = self._cache = None
        self.module.close()

    def _held(self) -> KvCache:
        if self._cache is None:
            raise EngineFailed(
                f"the runner on {self.device.id} has no cache", remedy="reset it first", device=self.device.id
            )
        return self._cache

    def _bind(self, ids: np.ndarray, cache: KvCache) -> Binding:
        buffers = dict(cache.buffers)
        presents = {name.replace("past_key_values", "present"): buffer for name, buffer in buffers.items()}
        inputs = {"input_ids": ids, "seqlens_k": self._last, "total_sequence_length": self._total, **buffers}
        return self.module.bind(inputs, {"logits": self._logits, **presents})


class StatefulRunner:
    """The engine keeps the cache; it is copied out as it is made, or in before the first step."""

    def __init__(self, module: StatefulModule, bundle: Bundle, *, share: bool) -> None:
        self.device = module.device
        self.handover_s = 0.0
        self._module = module
        self._names = [name for _, _, name in past_names(bundle.layers)]
        self._wants = {spec.name for spec in module.inputs}
        self._fresh = {spec.name: dtype_of(spec.dtype) for spec in module.outputs if spec.name.startswith("fresh.")}
        self._share = share
        self._shape = (1, bundle.kv_heads, 0, bundle.head_dim)
        self._rooms: dict[str, np.ndarray] = {}
        self._logits = np.zeros((1, 1, bundle.vocab), np.float32)
        self._cache: KvCache | None = None

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        """See `Runner.forward`."""
        fresh = {name: self._room(name, len(ids)) for name in self._fresh}
        binding = self._module.bind(_feeds(self._wants, ids, start), {"logits": self._logits, **fresh})
        binding.run()
        if self._cache is not None:
            begun = time.perf_counter()
            self._give(self._cache, fresh, start, len(ids))
            self.handover_s += time.perf_counter() - begun
        scores: np.ndarray = self._logits[0, 0]
        return scores

    def take(self, cache: KvCache) -> None:
        """See `Runner.take`."""
        begun = time.perf_counter()
        self._module.reset_state()
        self._module.set_state(cache.filled())
        self._cache = None
        self.handover_s += time.perf_counter() - begun

    def reset(self, cache: KvCache) -> None:
        """See `Runner.reset`."""
        self._module.reset_state()
        self._cache = cache if self._share else None

    def close(self) -> None:
        """See `Runner.close`."""
        self._cache = None
        self._module.close()

    def _room(self, name: str, count: int) -> np.ndarray:
        """An array for an output, kept from run to run: memory that is new costs more than what is written to it."""
        _, heads, _, dim = self._shape
        room = self._rooms.get(name)
        if room is None or room.size < heads * count * dim:
            room = self._rooms[name] = np.empty(heads * count * dim, self._fresh[name])
        return room[: heads * count * dim].reshape(1, heads, count, dim)

    def _give(self, cache: KvCache, fresh: dict[str, np.ndarray], start: int, count: int) -> None:
        cache.reserve(start + count)
        if fresh:
            for name in self._names:
                cache.write(name, fresh[name.replace("past_key_values", "fresh")], start)
        else:
            for name, past in self._module.get_state().items():
                cache.write(name, past[:, :, start:], start)
        cache.length = start + count


class GrowingRunner:
    """Gives the last run's presents to the next as its past, by reference."""

    def __init__(self, module: Module, bundle: Bundle, *, share: bool) -> None:
        self.device = module.device
        self.handover_s = 0.0
        self._module = module
        self._names = [name for _, _, name in past_names(bundle.layers)]
        self._wants = {spec.name for spec in module.inputs}
        self._nothing = np.zeros((1, bundle.kv_heads, 0, bundle.head_dim), np.float32)
        self._past = dict.fromkeys(self._names, self._nothing)
        self._share = share
        self._cache: KvCache | None = None

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        """See `Runner.forward`."""
        outputs = self._module.run(_feeds(self._wants, ids, start) | self._past)
        self._past = {name: outputs[name.replace("past_key_values", "present")] for name in self._names}
        if self._cache is not None:
            begun = time.perf_counter()
            self._cache.reserve(start + len(ids))
            for name, present in self._past.items():
                self._cache.write(name, present[:, :, start:], start)
            self._cache.length = start + len(ids)
            self.handover_s += time.perf_counter() - begun
        logits: np.ndarray = outputs["logits"][0, -1]
        return logits

    def take(self, cache: KvCache) -> None:
        """See `Runner.take`."""
        begun = time.perf_counter()
        self._past = {name: np.ascontiguousarray(past) for name, past in cache.filled().items()}
        self._cache = None
        self.handover_s += time.perf_counter() - begun

    def reset(self, cache: KvCache) -> None:
        """See `Runner.reset`."""
        self._past = dict.fromkeys(self._names, self._nothing)
        self._cache = cache if self._share else None

    def close(self) -> None:
        """See `Runner.close`."""
        self._past = {}
        self._cache = None
        self._module.close()


def _feeds(wanted: set[str], ids: Sequence[int] | np.ndarray, start: int) -> dict[str, np.ndarray]:
    count = len(ids)
    feeds = {"input_ids": np.ascontiguousarray(ids, np.int64)[None]}
    if "position_ids" in wanted:
        feeds["position_ids"] = np.arange(start, start + count, dtype=np.int64)[None]
    if "seqlens_k" in wanted:
        feeds["seqlens_k"] = np.array([start + count - 1], np.int32)
        feeds["total_sequence_length"] = np.array(start + count, np.int32)
    if "attention_mask" in wanted:
        feeds["attention_mask"] = np.ones((1, start + count), np.int64)
    return feeds
