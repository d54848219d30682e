"""Prefill and decode of several sequences side by side: tokens a second over the size of the batch, on every device.

For each size all devices are loaded, shown to compute for every sequence what one sequence alone gives, and then take
turns. Reading a weight once serves all sequences, which is why decode gains by a batch and prefill, which computes
more than it reads, hardly does.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import platformdirs

from trisect.llm.bundle import Bundle
from trisect.llm.running.kv_cache import KvCache, past_names
from trisect.llm.running.runners import load_runner
from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import Binding, LoadOptions, Module, StatefulModule
from trisect.runtime.errors import EngineFailed, InvalidInput, StorageFailed, TrisectError
from trisect.runtime.progress import Progress, no_progress

from .batch_graph import for_batch
from .graph_copy import write_graph

_STEPS = 16
_FIRST_STEPS = 2
"""Find the caches full of the prompt's data."""
_TOLERANCE = 0.25
"""Of how far scores spread: kernels for one row round their inputs otherwise than those for several, which is a few
per cent of it; scores of another sequence or another token are off by more than all of it."""
_SHORT = 8
"""Tokens of the prompt that batches are tried with."""


@dataclass(frozen=True)
class BatchPoint:
    """One size of batch on one device, measured."""

    device: str
    batch: int
    prompt_tokens: int
    """Of each sequence; decode is behind these."""
    prefill_tok_s: float
    """Of all sequences together."""
    decode_tok_s: float


class Rows(Protocol):
    """A model on one device that computes a batch of sequences of one length."""

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        """Scores, float32 [batch, vocabulary], after tokens int64 [batch, n] that follow `start` earlier ones."""

    def reset(self) -> None:
        """Begin anew."""

    def close(self) -> None:
        """Give the device's memory back."""


def bench_batches(
    bundle: Bundle,
    devices: Sequence[Device],
    batches: Sequence[int],
    *,
    prompt_tokens: int,
    rounds: int = 3,
    threads: int | None = None,
    notes: list[str],
    progress: Progress = no_progress,
) -> tuple[BatchPoint, ...]:
    """Measure devices over sizes of batch.

    Parameters
    ----------
    bundle : Bundle
    devices : sequence of Device
    batches : sequence of int
    prompt_tokens : int
        Of each sequence.
    rounds : int
        Medians are of so many.
    threads : int, optional
    notes : list of str
        Gets a line for each device that cannot compute a batch, or computes it wrongly.
    progress : callable

    Raises
    ------
    InvalidInput
        For a batch that is none.
    """
    if any(batch < 1 for batch in batches):
        raise InvalidInput(f"a batch of {min(batches)}", remedy="give sizes from 1 on")
    prompt_tokens = min(prompt_tokens, bundle.context_length - _STEPS)
    generator = np.random.default_rng(0)
    alone: dict[str, np.ndarray] = {}
    found = []
    for at, batch in enumerate(dict.fromkeys(batches)):
        ids = generator.integers(0, bundle.vocab, (batch, max(prompt_tokens, _SHORT)))
        short = np.random.default_rng(1).integers(0, bundle.vocab, (max(batches), _SHORT))
        with ExitStack() as stack:
            loaded: dict[str, Rows] = {}
            for device in devices:
                progress(at, len(batches), f"a batch of {batch} on {device.id}")
                try:
                    rows = stack.enter_context(_loaded(bundle, device, batch, prompt_tokens + _STEPS, threads))
                    if device.id not in alone:
                        alone[device.id] = _each_alone(bundle, device, short, threads)
                    _check(rows, short[:batch], alone[device.id][:batch])
                except TrisectError as error:
                    notes.append(f"a batch of {batch} on {device.id} is left out: {error.message}")
                    continue
                loaded[device.id] = rows
            found += _take_turns(loaded, ids[:, :prompt_tokens], rounds)
    return tuple(found)


class _Closing:
    """Rows that are closed at the end of a block, with the folder that they were loaded from."""

    def __init__(self, make: Callable[[Path], Rows]) -> None:
        self._make = make

    def __enter__(self) -> Rows:
        cache = platformdirs.user_cache_path("trisect")
        try:
            cache.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(prefix="batch-", dir=cache)
        except OSError as error:
            raise StorageFailed(f"cannot write {cache}: {error.strerror or error}") from error
        try:
            self._rows = self._make(Path(self._folder.name))
        except BaseException:
            self._folder.cleanup()
            raise
        return self._rows

    def __exit__(self, *exception: object) -> None:
        self._rows.close()
        self._folder.cleanup()


def _loaded(bundle: Bundle, device: Device, batch: int, capacity: int, threads: int | None) -> _Closing:
    return _Closing(lambda folder: _load(bundle, device, batch, capacity, threads, folder))


def _load(bundle: Bundle, device: Device, batch: int, capacity: int, threads: int | None, folder: Path) -> Rows:
    graph = bundle.graph_for(device.engine)
    source = Path(bundle.folder)
    model = onnx.load(source / graph.file, load_external_data=False)
    for_batch(model, batch)
    path = folder / "batch.onnx"
    write_graph(model, source, path)
    names = [name for _, _, name in past_names(bundle.layers)]
    shape = (batch, bundle.kv_heads, 0, bundle.head_dim)
    if graph.cache == "in-place":
        module = load(path, device, LoadOptions(threads=threads, precision="fast", spin=True))
        return _InPlaceRows(module, names, shape, min(capacity, bundle.context_length), bundle.vocab)
    state = {name: name.replace("past_key_values", "present") for name in names}
    options = LoadOptions(
        threads=threads, precision="fast", state=state, outputs=("logits",), scale_group=graph.scale_group
    )
    module = load(path, device, options)
    if isinstance(module, StatefulModule):
        return _StatefulRows(module)
    module.close()
    options = LoadOptions(threads=threads, precision="fast", outputs=("logits", *state.values()))
    return _GrowingRows(load(path, device, options), state, shape)


class _InPlaceRows:
    def __init__(
        self, module: Module, names: Sequence[str], shape: tuple[int, int, int, int], capacity: int, vocab: int
    ) -> None:
        batch, heads, _, dim = shape
        self._module = module
        self._past = {name: np.zeros((batch, heads, capacity, dim), np.float32) for name in names}
        self._logits = np.zeros((batch, 1, vocab), np.float32)
        self._last = np.zeros(batch, np.int32)
        self._total = np.zeros((), np.int32)
        self._ids = np.zeros((batch, 1), np.int64)
        self._step: Binding | None = None

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        total = start + ids.shape[1]
        self._last[:], self._total[...] = total - 1, total
        if ids.shape[1] > 1:
            self._bind(np.ascontiguousarray(ids)).run()
        else:
            self._step = self._step or self._bind(self._ids)
            self._ids[:] = ids
            self._step.run()
        return self._logits[:, 0]

    def reset(self) -> None:
        """What lies there is overwritten."""

    def close(self) -> None:
        self._step = None
        self._module.close()

    def _bind(self, ids: np.ndarray) -> Binding:
        wanted = {spec.name for spec in self._module.inputs}
        inputs = {"input_ids": ids, "seqlens_k": self._last, "total_sequence_length": self._total, **self._past}
        presents = {name.replace("past_key_values", "present"): buffer for name, buffer in self._past.items()}
        given = {name: array for name, array in inputs.items() if name in wanted}
        return self._module.bind(given, {"logits": self._logits, **presents})


class _StatefulRows:
    def __init__(self, module: StatefulModule) -> None:
        self._module = module
        self._wanted = {spec.name for spec in module.inputs}

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        return self._module.run(_feeds(self._wanted, ids, start))["logits"][:, -1]

    def reset(self) -> None:
        self._module.reset_state()

    def close(self) -> None:
        self._module.close()


class _GrowingRows:
    def __init__(self, module: Module, state: Mapping[str, str], shape: tuple[int, int, int, int]) -> None:
        self._module = module
        self._state = state
        self._nothing = np.zeros(shape, np.float32)
        self._wanted = {spec.name for spec in module.inputs}
        self._past: dict[str, np.ndarray] = {}
        self.reset()

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        outputs = self._module.run(_feeds(self._wanted, ids, start) | self._past)
        self._past = {past: outputs[present] for past, present in self._state.items()}
        return outputs["logits"][:, -1]

    def reset(self) -> None:
        self._past = dict.fromkeys(self._state, self._nothing)

    def close(self) -> None:
        self._past = {}
        self._module.close()


def _feeds(wanted: set[str], ids: np.ndarray, start: int) -> dict[str, np.ndarray]:
    batch, count = ids.shape
    feeds = {
        "input_ids": np.ascontiguousarray(ids),
        "position_ids": np.tile(np.arange(start, start + count, dtype=np.int64), (batch, 1)),
        "attention_mask": np.ones((batch, start + count), np.int64),
        "seqlens_k": np.full(batch, start + count - 1, np.int32),
        "total_sequence_length": np.array(start + count, np.int32),
    }
    return {name: array for name, array in feeds.items() if name in wanted}


def _each_alone(bundle: Bundle, device: Device, ids: np.ndarray, threads: int | None) -> np.ndarray:
    """Scores of each sequence by itself, of the graph as the bundle has it and as its answers are computed."""
    runner = load_runner(bundle, device, threads=threads, decodes=True, share=False)
    cache = KvCache(bundle.layers, bundle.kv_heads, bundle.head_dim, bundle.context_length, _SHORT)
    scores = []
    try:
        for row in ids:
            cache.clear()
            runner.reset(cache)
            runner.forward(row[:-1], 0)
            scores.append(runner.forward(row[-1:], len(row) - 1).copy())
    finally:
        runner.close()
    return np.stack(scores)


def _check(rows: Rows, ids: np.ndarray, expected: np.ndarray) -> None:
    rows.reset()
    rows.forward(ids[:, :-1], 0)
    found = rows.forward(ids[:, -1:], ids.shape[1] - 1)
    off = float(np.sqrt(np.square(found - expected).mean(axis=1)).max() / expected.std())
    if not off <= _TOLERANCE:
        raise EngineFailed(f"a sequence in it gets other scores than alone, off by {off:.0%} of their spread")


def _take_turns(loaded: Mapping[str, Rows], ids: np.ndarray, rounds: int) -> list[BatchPoint]:
    reading: dict[str, list[float]] = defaultdict(list)
    writing: dict[str, list[float]] = defaultdict(list)
    batch, tokens = ids.shape
    for number in range(-1, rounds):  # the first plans memory and kernels for this length
        for device, rows in loaded.items():
            rows.reset()
            begun = time.perf_counter()
            rows.forward(ids, 0)
            read_s = time.perf_counter() - begun
            steps_s = []
            for step in range(_STEPS):
                begun = time.perf_counter()
                rows.forward(ids[:, :1], tokens + step)
                steps_s.append(time.perf_counter() - begun)
            if number >= 0:
                reading[device].append(read_s)
                writing[device].append(statistics.median(steps_s[_FIRST_STEPS:]))
    return [
        BatchPoint(
            device, batch, tokens, batch * tokens / statistics.median(reading[device]),
            batch / statistics.median(writing[device]),
        )
        for device in loaded
    ]  # fmt: skip
