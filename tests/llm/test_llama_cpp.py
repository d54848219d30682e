"""Scores beside llama.cpp's, an implementation of the format that shares nothing with ours."""

from __future__ import annotations

import numpy as np
import pytest

from tests.llm.llama_cpp import LlamaCpp
from tests.llm.oracle_llama import log_softmax, mean_kl
from tests.llm.tiny_llms import TinyLlms
from trisect.llm.running.generation import LanguageSession
from trisect.runtime.engines import find_devices

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
