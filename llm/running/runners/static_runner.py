"""Runs a graph of fixed shapes: pads the tokens of a run, and keeps the cache in slots in host memory."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trisect.runtime.device import Device
from trisect.runtime.engines.base import Binding, Module
from trisect.runtime.errors import ContextExceeded
from trisect.runtime.tensors.dtypes import dtype_of

from ...graphs.static_graph import MASK
from ..kv_cache import KvCache
from ..kv_layer import fresh_name
from .runner import Runner, cancel_run, export_all, last_scores

HIDDEN = np.float32(-30_000)
"""Added to scores of keys that a token must not see: within the range of float16, and below all scores by far."""


@dataclass(frozen=True)
class StaticProgram:
    """The graph compiled for one number of tokens, with its buffers.

    Tokens are at the end of a run; what is before them is padding, whose keys no token sees.
    """

    tokens: int
    module: Module
    binding: Binding
    arrays: Mapping[str, np.ndarray]
    """Inputs and outputs by name."""

    @classmethod
    def of(cls, module: Module, slots: Mapping[str, np.ndarray], tokens: int) -> StaticProgram:
        """Bind a loaded graph to the slots of the cache and to new buffers."""
        inputs = {
            spec.name: slots[spec.name]
            if spec.name in slots
            else np.zeros(tuple(map(int, spec.shape)), dtype_of(spec.dtype))
            for spec in module.inputs
        }
        outputs = {spec.name: np.zeros(tuple(map(int, spec.shape)), dtype_of(spec.dtype)) for spec in module.outputs}
        return cls(tokens, module, module.bind(inputs, outputs), inputs | outputs)


class StaticRunner(Runner):
    """Computes prompts in chunks of a fixed number of tokens, and single tokens with a program of their own.

    Parameters
    ----------
    device : Device
    lookup : Module
        Graph that returns the inputs that belong to each token, on the host.
    modules : mapping of int to Module
        The static graph loaded for numbers of tokens: the largest one for chunks of a prompt, the smallest one for
        single tokens.
    slots : int
        Tokens that fit into the cache.
    past : mapping of str to tuple of int
        Shape of each of its inputs, with that number of slots.
    exports_cache : bool
        See `Runner.reset`.
    """

    def __init__(
        self,
        device: Device,
        lookup: Module,
        modules: Mapping[int, Module],
        *,
        slots: int,
        past: Mapping[str, tuple[int, ...]],
        exports_cache: bool,
    ) -> None:
        self.device = device
        self.handover_s = 0.0
        self.context_limit = slots
        self._lookup = lookup
        self._slots = slots
        self._past = {name: np.zeros(shape, np.float32) for name, shape in past.items()}
        self._exports_cache = exports_cache
        self._cache: KvCache | None = None
        self._shortest = 0
        """Number of tokens that the slots can be cut to; see `KvCache.shortest_rewind`."""
        self._programs = [
            StaticProgram.of(modules[tokens], self._past, tokens) for tokens in sorted(modules, reverse=True)
        ]

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        rows = np.ascontiguousarray(np.atleast_2d(ids), np.int64)
        end = start + rows.shape[1]
        if end > self._slots:
            raise ContextExceeded(
                f"{self.device.id} was loaded for {self._slots} tokens, and this request has {end} or more",
                remedy="shorten the prompt, ask for fewer new tokens, or load the model for a longer context",
            )
        program = self._programs[0]
        # The first chunk is the one that is padded, so that all others are full.
        for at, stop in _chunks(start, end, program.tokens):
            program = self._programs[-1 if stop - at <= self._programs[-1].tokens else 0]
            self._run(program, rows[:, at - start : stop - start], at)
        return last_scores(program.arrays["logits"], ids)

    def continue_from(self, cache: KvCache) -> None:
        begin = time.perf_counter()
        if cache.length > self._slots:
            raise ContextExceeded(
                f"{self.device.id} was loaded for {self._slots} tokens, and the KV cache has {cache.length}",
                remedy="shorten the prompt, or load the model for a longer context",
            )
        for name, values in cache.full_length().items():
            self._past[name][:, :, : cache.length] = values
        self._shortest = cache.shortest_rewind
        self._cache = None
        self.handover_s += time.perf_counter() - begin

    def reset(self, cache: KvCache) -> None:
        self._cache = cache if self._exports_cache else None
        self._shortest = 0

    def rewind(self, length: int) -> int:
        if length < self._shortest:
            return 0
        if self._cache is not None and not self._cache.rewind(length):
            export_all(self._cache, {name: past[:, :, :length] for name, past in self._past.items()})
        return length  # slots behind the tokens of a run are masked

    def cancel(self) -> None:
        for program in self._programs:
            cancel_run(program.module)

    def close(self) -> None:
        self._cache = None
        for program in self._programs:
            program.module.close()
        self._programs = []
        self._lookup.close()

    def _run(self, program: StaticProgram, ids: np.ndarray, start: int) -> None:
        """Compute up to as many tokens as a program takes, and store their keys and values."""
        count = ids.shape[1]
        padding = program.tokens - count
        padded = np.zeros((1, program.tokens), np.int64)
        padded[:, padding:] = ids
        positions = np.maximum(np.arange(program.tokens, dtype=np.int64) + start - padding, 0)[None]
        arrays = program.arrays
        for name, values in self._lookup.run({"input_ids": padded, "position_ids": positions}).items():
            arrays[name][...] = values
        for name, mask in arrays.items():
            if name.partition(".")[0] == MASK:
                fill_mask(mask, start, padding, int(name.partition(".")[2] or self._slots + 1))
        program.binding.run()
        for name, slots in self._past.items():
            slots[:, :, start : start + count] = arrays[fresh_name(name)][:, :, padding:]
        if self._cache is not None:
            begin = time.perf_counter()
            self._cache.reserve(start + count)
            for name in self._past:
                self._cache.write(name, arrays[fresh_name(name)][:, :, padding:], start)
            self._cache.length = start + count
            self.handover_s += time.perf_counter() - begin


def fill_mask(mask: np.ndarray, start: int, padding: int, window: int) -> None:
    """Write which keys each token sees: itself and the ``window - 1`` before it, but no padding.

    Parameters
    ----------
    mask : ndarray
        float32 [tokens, slots + tokens].
    start : int
        Tokens in the slots.
    padding : int
        Number of tokens that are padding, at the beginning.

    Examples
    --------
    Two tokens of padding and two others, behind one token in two slots:

    >>> mask = np.zeros((4, 6), np.float32)
    >>> fill_mask(mask, 1, 2, 9)
    >>> (mask[2:] == 0).astype(int)
    array([[1, 0, 0, 0, 1, 0],
           [1, 0, 0, 0, 1, 1]])
    """
    tokens, keys = mask.shape
    slots = keys - tokens
    queries = np.arange(tokens)[:, None] - padding + start
    positions = np.concatenate([np.arange(slots), np.arange(tokens) - padding + start])
    exists = np.concatenate([np.arange(slots) < start, np.arange(tokens) >= padding])
    distance = queries - positions
    mask[...] = np.where(exists & (distance >= 0) & (distance < window), np.float32(0), HIDDEN)


def _chunks(start: int, end: int, size: int) -> list[tuple[int, int]]:
    """Return the first and the last position of each run; only the first is shorter than `size`.

    Examples
    --------
    >>> _chunks(3, 12, 4)
    [(3, 4), (4, 8), (8, 12)]
    """
    first = (end - start) % size or size
    bounds = [start, *range(start + first, end + 1, size)]
    return list(itertools.pairwise(bounds))
