"""Scores beside llama.cpp's, an implementation of the format that shares nothing with ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.llm.architecture_files import VARIANTS, WINDOW, write_architecture
from tests.llm.llama_cpp import LlamaCpp
from tests.llm.oracle_llama import log_softmax, mean_kl
from tests.llm.tiny_llms import TinyLlms
from trisect.llm.importing.model_import import open_model
from trisect.llm.running.generation import LanguageSession
from trisect.llm.tokenization.tokenizer import Tokenizer
from trisect.runtime.engines import find_devices
from trisect.runtime.errors import EngineFailed

SCORES, GELU_SCORES = 1e-4, 3e-3
"""Largest differences of scores, and where llama.cpp looks GELU up in a table of float16; seen: 1.3e-5 and 1.3e-3."""
GEMMA3_KL = 0.03
"""Seen: 0.0075 to 0.0082 over the short text, 0.0001 to 0.0002 over the long one."""
TEXT = (
    "The river begins as a small spring in the hills above the town, and by the time it reaches the harbour it is wide "
    "enough for ships. In spring, when the snow melts, it floods the meadows; those who live there have built their "
    "houses on mounds of earth, and they keep boats in their barns. def add(a, b): return a + b\n"
)
PROMPT, FOLLOWING = [5, 17, 260, 261, 40, 41, 300, 9, 9, 12], [3, 200, 77]


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "mistral"])
def test_scores_are_llama_cpps(tiny_llms: TinyLlms, llama_cpp: LlamaCpp, arch: str) -> None:
    model = tiny_llms.get(arch)
    expected = llama_cpp.scores(model.path, PROMPT, FOLLOWING)
    assert mean_kl(model.oracle.logits(PROMPT + FOLLOWING)[len(PROMPT) - 1 :], expected) < 1e-8
    for device in find_devices("cpu:ort,cpu:openvino"):
        with LanguageSession(model.bundle, device, device, precision="float32") as session:
            scores = session.scores(PROMPT, FOLLOWING)
        assert np.abs(log_softmax(scores) - log_softmax(expected)).max() < 1e-4, device.id


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_of_each_architecture_are_llama_cpps(tmp_path: Path, llama_cpp: LlamaCpp, variant: str) -> None:
    path = write_architecture(tmp_path / "a.gguf", variant)
    bundle = open_model(path, folder=tmp_path / "bundle")
    prompt = np.random.default_rng(1).integers(0, 384, 3 * WINDOW).tolist()
    following = np.random.default_rng(2).integers(0, 384, 6).tolist()
    expected = llama_cpp.scores(path, prompt, following)
    tolerance = GELU_SCORES if variant.startswith("gemma") else SCORES
    ort, openvino = find_devices("cpu:ort,cpu:openvino")
    # In chunks, so that the window begins within a chunk, before it, and in the cache alone.
    runs = [(ort, ort, 2048), (openvino, openvino, 7), (openvino, ort, 20), (ort, openvino, 9)]
    if bundle.states:
        with pytest.raises(EngineFailed, match="cpu:openvino cannot"):
            bundle.graph_for(openvino)
        runs = [(ort, ort, 2048), (ort, ort, 7)]
    for prefill, decode, chunk in runs:
        with LanguageSession(bundle, prefill, decode, precision="float32", chunk_tokens=chunk) as session:
            scores = session.scores(prompt, following)
        assert np.abs(scores - expected).max() < tolerance, (prefill.id, decode.id)


@pytest.mark.parametrize("length", [240, 251, 300])
def test_long_contexts_have_factors_of_their_own(tmp_path: Path, llama_cpp: LlamaCpp, length: int) -> None:
    """LongRoPE: llama.cpp takes the long factors, from the first token on, where the context is above 256 tokens."""
    path = write_architecture(tmp_path / "a.gguf", "phi4")
    bundle = open_model(path, folder=tmp_path / "bundle")
    prompt = np.random.default_rng(1).integers(0, 384, length).tolist()
    following = np.random.default_rng(2).integers(0, 384, 6).tolist()
    expected = llama_cpp.scores(path, prompt, following)
    fitting = bundle.for_context(length + 7)  # the context that llama.cpp is given
    assert (fitting is bundle) == (length < 250)
    ort, openvino = find_devices("cpu:ort,cpu:openvino")
    for prefill, decode in ((ort, ort), (openvino, ort), (ort, openvino)):
        with LanguageSession(fitting, prefill, decode, precision="float32") as session:
            scores = session.scores(prompt, following)
        assert np.abs(scores - expected).max() < SCORES, (prefill.id, decode.id)


@pytest.mark.slow
def test_gemma3_is_close_to_llama_cpp(models: Path, tmp_path: Path, llama_cpp: LlamaCpp) -> None:
    """A real Q4_K_M file. llama.cpp rounds inputs of products to 8 bits: from float32, it diverges by 0.003 to 0.02."""
    path = models / "gemma-3-270m-q4_k_m.gguf"
    if not path.exists():
        pytest.skip(f"{path.name} is not in {models}")
    bundle = open_model(path, folder=tmp_path / "bundle")
    assert bundle.context_length == 32768
    ort, openvino = find_devices("cpu:ort,cpu:openvino")
    for repeats in (1, 8):  # the second text is longer than the sliding window of 512 tokens
        ids = Tokenizer.load(bundle.folder).encode(TEXT * repeats)
        prompt, following = ids[:-40], ids[-40:]
        expected = llama_cpp.scores(path, prompt, following)
        for prefill, decode in ((ort, ort), (openvino, ort)):
            with LanguageSession(bundle, prefill, decode, precision="float32") as session:
                scores = session.scores(prompt, following)
            assert mean_kl(expected, scores) < GEMMA3_KL
            assert np.mean(scores.argmax(axis=-1) == expected.argmax(axis=-1)) > 0.9
