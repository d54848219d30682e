"""Imported model folders, and the scores of their graphs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import trisect
from tests.llm.llm_folder_factory import (
    HEAD_DIM,
    KV_HEADS,
    VOCAB,
    write_genai_folder,
    write_optimum_folder,
)
from trisect.llm.bundle import Bundle
from trisect.llm.importing.folder_import import import_folder
from trisect.llm.running.kv_cache import KvCache
from trisect.llm.running.runners.runner import Runner
from trisect.llm.running.runners.runner_loading import load_runner
from trisect.runtime.progress import no_progress

IDS = np.random.default_rng(7).integers(6, VOCAB, 11)
WRITERS = {"genai": write_genai_folder, "optimum": write_optimum_folder}


def last_scores(model: Path, ids: np.ndarray) -> np.ndarray:
    """Return the scores after `ids` by the original graph, without a cache; float32 [vocabulary]."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    feeds: dict[str, np.ndarray] = {}
    for spec in session.get_inputs():
        half = np.float16 if spec.type == "tensor(float16)" else np.float32
        feeds[spec.name] = {
            1: lambda: ids[None],
            2: lambda: np.ones((1, len(ids)), np.int64),
            3: lambda: np.arange(len(ids))[None],
            4: lambda dtype=half: np.zeros((1, KV_HEADS, 0, HEAD_DIM), dtype),
            5: lambda: np.array(1),
        }[
            5 if "num_logits" in spec.name else 4 if len(spec.shape) == 4 else 2 if "mask" in spec.name
            else 3 if "position" in spec.name else 1
        ]()  # fmt: skip
    scores: np.ndarray = session.run([session.get_outputs()[0].name], feeds)[0][0, -1]
    return scores.astype(np.float32)


def imported(source: Path) -> Bundle:
    folder = Path(tempfile.mkdtemp(dir=source.parent))
    bundle = import_folder(source, folder, progress=no_progress)
    bundle.save(folder)
    return Bundle.load(folder)


def runner(bundle: Bundle, engine: str, **options: Any) -> Runner:
    device = next(d for d in trisect.devices("auto") if d.engine == engine)
    settings = {"threads": 1, "precision": "float32", "decodes": True, "exports_cache": False, **options}
    return load_runner(bundle, device, **settings)


def cache_of(bundle: Bundle) -> KvCache:
    return bundle.new_cache(4)


def scores_of(bundle: Bundle, engine: str, chunks: tuple[int, ...] = (6, 4, 1)) -> np.ndarray:
    made = runner(bundle, engine)
    made.reset(cache_of(bundle))
    start = 0
    for size in chunks:
        scores = made.forward(IDS[start : start + size], start)
        start += size
    return scores.copy()
