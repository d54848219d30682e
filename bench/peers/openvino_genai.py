"""OpenVINO GenAI on the same GGUF: its own graph, its own reading of the weights."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from . import Timing
from . import gguf_file as source

__all__ = ["Peer", "source"]


class Peer:
    """`LLMPipeline`, greedy, without the prefix cache, which would answer a repeated prompt from memory."""

    def load(self, model: str, threads: int, settings: dict[str, Any]) -> None:
        import openvino_genai as genai

        self._library = genai
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.max_num_batched_tokens = 8192
        properties = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        self._pipeline = genai.LLMPipeline(model, "CPU", scheduler_config=scheduler, **properties)

    def run(self, ids: list[int], new_tokens: int) -> Timing:
        import openvino as ov

        genai = self._library
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = new_tokens
        config.ignore_eos = True
        config.apply_chat_template = False
        mask = np.ones((1, len(ids)), np.int64)
        inputs = genai.TokenizedInputs(ov.Tensor(np.array([ids], np.int64)), ov.Tensor(mask))
        begun = time.perf_counter()
        result = self._pipeline.generate(inputs, config)
        elapsed = time.perf_counter() - begun
        prefill_s = result.perf_metrics.get_ttft().mean / 1e3
        return Timing(prefill_s, 0.0, elapsed - prefill_s, elapsed, tuple(result.tokens[0]))
