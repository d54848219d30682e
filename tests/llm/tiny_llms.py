"""Tiny language models, imported once per test session, and runners of every kind for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.llm.gguf_factory import write_tiny_gguf
from tests.llm.oracle_llama import Oracle
from trisect.llm.bundle import Bundle, PhaseGraph
from trisect.llm.importing.model_import import WeightFormat, open_model
from trisect.llm.importing.weight_conversion import Preference
from trisect.llm.running.kv_cache import KvCache
from trisect.llm.running.kv_layer import cache_names, present_name
from trisect.llm.running.runners.growing_runner import GrowingRunner
from trisect.llm.running.runners.runner import Runner
from trisect.llm.running.runners.runner_loading import load_runner
from trisect.runtime.device import Device
from trisect.runtime.engines import discover, load
from trisect.runtime.engines.base import LoadOptions

GROWN = PhaseGraph("standard.onnx", cache="grown", fresh=True)


@dataclass(frozen=True)
class TinyLlm:
    """A model of random weights as a GGUF file, as a bundle, and in plain numpy."""

    path: Path
    bundle: Bundle

    @functools.cached_property
    def oracle(self) -> Oracle:
        return Oracle(self.path)


class TinyLlms:
    """Writes and imports tiny models, each variant once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, TinyLlm] = {}

    def get(
        self,
        arch: str = "llama",
        quant: str = "F32",
        weights: WeightFormat = "blocks",
        prefer: Preference = "speed",
        **changes: Any,
    ) -> TinyLlm:
        """Return a model; see `write_tiny_gguf` for what can be changed."""
        key = repr((arch, quant, weights, prefer, sorted(changes.items())))
        if key not in self._made:
            folder = self._folder / str(len(self._made))
            folder.mkdir()
            path = write_tiny_gguf(folder / "tiny.gguf", arch, quant, **changes)
            self._made[key] = TinyLlm(path, open_model(path, weights=weights, prefer=prefer, folder=folder / "bundle"))
        return self._made[key]


def device(name: str) -> Device:
    """A device of this machine."""
    return next(device for device in discover() if device.id == name)


def in_place(bundle: Bundle, **options: Any) -> Runner:
    """The in-place graph on ONNX Runtime."""
    return _load(bundle, "cpu:ort", **options)


def growing(bundle: Bundle, **options: Any) -> Runner:
    """The standard graph on ONNX Runtime."""
    return _load(replace(bundle, graphs=(GROWN,)), "cpu:ort", **options)


def stateful(bundle: Bundle, **options: Any) -> Runner:
    """The standard graph on OpenVINO, which keeps the cache."""
    return _load(bundle, "cpu:openvino", **options)


def growing_openvino(bundle: Bundle, *, exports_cache: bool = False) -> Runner:
    """The standard graph on OpenVINO, past in and present out."""
    past = cache_names(bundle.kv_layers)
    options = LoadOptions(threads=1, outputs=("logits", *map(present_name, past)))
    module = load(Path(bundle.folder) / GROWN.file, device("cpu:openvino"), options)
    return GrowingRunner(module, bundle.kv_layers, 1, exports_cache=exports_cache)


def in_place_half(bundle: Bundle, **options: Any) -> Runner:
    """The in-place graph on ONNX Runtime, with the cache in float16."""
    return _load(bundle.with_kv_dtype("float16"), "cpu:ort", **options)


KINDS: dict[str, Callable[..., Runner]] = {
    kind.__name__: kind for kind in (in_place, growing, stateful, growing_openvino)
}


def _load(bundle: Bundle, name: str, *, exports_cache: bool = False, precision: str = "float32") -> Runner:
    return load_runner(bundle, device(name), threads=1, precision=precision, decodes=True, exports_cache=exports_cache)


def cache_for(bundle: Bundle, capacity: int = 64) -> KvCache:
    """An empty cache of a model."""
    return bundle.new_cache(capacity)


def tokens(count: int, seed: int = 0, vocab: int = 384) -> np.ndarray:
    """Random token ids."""
    return np.random.default_rng(seed).integers(0, vocab, count)


def run_in_parts(runner: Runner, ids: np.ndarray, parts: Sequence[int], start: int = 0) -> np.ndarray:
    """Scores after each part of some tokens, [parts, vocabulary]; the parts are defined by their lengths."""
    rows = []
    for part in parts:
        rows.append(runner.forward(ids[start : start + part], start).copy())
        start += part
    return np.stack(rows)


def ends(parts: Sequence[int]) -> np.ndarray:
    """Index of the last token of each part."""
    return np.cumsum(parts) - 1
