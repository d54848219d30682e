"""Prefill and decode throughput over the batch size, on every device.

For each batch size all devices are loaded and checked to compute for every sequence what the sequence alone gives; then
they take turns. A batch reads each weight once for all its sequences, so decode, which is memory-bound, gains by it;
prefill, which is compute-bound, hardly does.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import platformdirs

from trisect.llm.bundle import Bundle
from trisect.llm.running.kv_cache import KvCache
from trisect.llm.running.runners.runner import Runner
from trisect.llm.running.runners.runner_loading import load_runner
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed, InvalidInput, StorageFailed, TrisectError
from trisect.runtime.progress import Progress, no_progress

from .batch_graph import for_batch
from .graph_copy import write_graph

_STEPS = 16
_WARMUP_STEPS = 2
"""Decode steps not counted: they find the processor's caches full of the prompt's data."""
_TOLERANCE = 0.25
"""Of the standard deviation of the scores. Kernels for one row round their inputs differently from those for several,
which changes scores by a few per cent of it; scores of another sequence or token differ by more than all of it."""
_CHECK_TOKENS = 8
"""Length of the prompts that a batch is checked with."""


@dataclass(frozen=True)
class BatchPoint:
    """Measured throughput of one batch size on one device."""

    device: str
    batch: int
    prompt_tokens: int
    """Of each sequence; also the context length of decode."""
    prefill_tok_s: float
    """Of all sequences together."""
    decode_tok_s: float


@dataclass(frozen=True)
class BatchModel:
    """A model loaded on one device for a batch of sequences of one length."""

    runner: Runner
    cache: KvCache

    def reset(self) -> None:
        """Start new sequences."""
        self.cache.clear()
        self.runner.reset(self.cache)

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        """Return the scores, float32 [batch, vocabulary], after tokens int64 [batch, n]; see `Runner.forward`."""
        return self.runner.forward(ids, start)


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
    """Measure devices over batch sizes.

    Parameters
    ----------
    batches : sequence of int
        Batch sizes.
    prompt_tokens : int
        Of each sequence.
    rounds : int
        Number of measurements, of which the medians are returned.
    notes : list of str
        Gets a line for each device that cannot compute a batch, or computes it wrongly.

    Raises
    ------
    InvalidInput
        For a batch size below 1.
    """
    if any(batch < 1 for batch in batches):
        raise InvalidInput(f"a batch of {min(batches)}", remedy="give sizes from 1 on")
    prompt_tokens = min(prompt_tokens, bundle.context_length - _STEPS)
    generator = np.random.default_rng(0)
    expected: dict[str, np.ndarray] = {}
    points = []
    for at, batch in enumerate(dict.fromkeys(batches)):
        ids = generator.integers(0, bundle.vocab, (batch, max(prompt_tokens, _CHECK_TOKENS)))
        check_ids = np.random.default_rng(1).integers(0, bundle.vocab, (max(batches), _CHECK_TOKENS))
        with ExitStack() as stack:
            models: dict[str, BatchModel] = {}
            for device in devices:
                progress(at, len(batches), f"a batch of {batch} on {device.id}")
                try:
                    model = stack.enter_context(load_batch(bundle, device, batch, prompt_tokens + _STEPS, threads))
                    if device.id not in expected:
                        expected[device.id] = single_scores(bundle, device, check_ids, threads)
                    check_scores(model, check_ids[:batch], expected[device.id][:batch])
                except TrisectError as error:
                    notes.append(f"a batch of {batch} on {device.id} is left out: {error.message}")
                    continue
                models[device.id] = model
            points += _measure_interleaved(models, ids[:, :prompt_tokens], rounds)
    return tuple(points)


@contextmanager
def load_batch(bundle: Bundle, device: Device, batch: int, capacity: int, threads: int | None) -> Iterator[BatchModel]:
    """Load the bundle's graph, changed to a batch size, and release it at the end of the block.

    Raises
    ------
    UnsupportedModel
        If the graph cannot be changed.
    EngineFailed
        If the engine cannot load it.
    StorageFailed
        If the changed graph cannot be written.
    """
    graph = bundle.graph_for(device)
    proto = onnx.load(Path(bundle.folder) / graph.file, load_external_data=False)
    for_batch(proto, batch)
    # On the disk of the bundles, so that the weights can be linked.
    cache = platformdirs.user_cache_path("trisect")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix="batch-", dir=cache)
    except OSError as error:
        raise StorageFailed(f"cannot write {cache}: {error.strerror or error}") from error
    with folder as name:
        write_graph(proto, Path(bundle.folder), Path(name, graph.file))
        changed = replace(bundle, folder=name, graphs=(graph,))
        runner = load_runner(changed, device, threads=threads, decodes=True, exports_cache=False, batch=batch)
        try:
            yield BatchModel(runner, bundle.new_cache(min(capacity, bundle.context_length), batch=batch))
        finally:
            runner.close()


def single_scores(bundle: Bundle, device: Device, ids: np.ndarray, threads: int | None) -> np.ndarray:
    """Return the scores after each sequence computed alone, by the bundle's own graph.

    Parameters
    ----------
    ids : ndarray
        int64 [sequences, tokens].

    Returns
    -------
    ndarray
        float32 [sequences, vocabulary].
    """
    runner = load_runner(bundle, device, threads=threads, decodes=True, exports_cache=False)
    cache = bundle.new_cache(ids.shape[1])
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


def check_scores(model: BatchModel, ids: np.ndarray, expected: np.ndarray) -> None:
    """Raise an error if a batch gives other scores than its sequences alone.

    Raises
    ------
    EngineFailed
        With the largest relative difference.
    """
    model.reset()
    model.forward(ids[:, :-1], 0)
    scores = model.forward(ids[:, -1:], ids.shape[1] - 1)
    difference = float(np.sqrt(np.square(scores - expected).mean(axis=1)).max() / expected.std())
    if not difference <= _TOLERANCE:
        raise EngineFailed(
            f"a sequence in it gets other scores than alone, off by {difference:.0%} of their standard deviation"
        )


def _measure_interleaved(models: Mapping[str, BatchModel], ids: np.ndarray, rounds: int) -> list[BatchPoint]:
    prefill_s: dict[str, list[float]] = defaultdict(list)
    decode_s: dict[str, list[float]] = defaultdict(list)
    batch, tokens = ids.shape
    for number in range(-1, rounds):  # the first plans memory and kernels for this length
        for device, model in models.items():
            model.reset()
            begin = time.perf_counter()
            model.forward(ids, 0)
            elapsed_s = time.perf_counter() - begin
            steps_s = []
            for step in range(_STEPS):
                begin = time.perf_counter()
                model.forward(ids[:, :1], tokens + step)
                steps_s.append(time.perf_counter() - begin)
            if number >= 0:
                prefill_s[device].append(elapsed_s)
                decode_s[device].append(statistics.median(steps_s[_WARMUP_STEPS:]))
    return [
        BatchPoint(
            device,
            batch,
            tokens,
            batch * tokens / statistics.median(prefill_s[device]),
            batch / statistics.median(decode_s[device]),
        )
        for device in models
    ]
