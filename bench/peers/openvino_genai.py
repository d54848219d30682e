"""OpenVINO GenAI on the same GGUF file, with its own graph and its own conversion of the weights."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from . import Peer, PeerTiming
from . import gguf_file as source

__all__ = ["OpenVinoGenaiPeer", "load", "source"]


class OpenVinoGenaiPeer(Peer):
    """`LLMPipeline`, greedy."""

    def __init__(self, library: Any, pipeline: Any) -> None:
        self._library = library
        self._pipeline = pipeline

    def run(self, ids: list[int], new_tokens: int) -> PeerTiming:
        import openvino as ov

        genai = self._library
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = new_tokens
        config.ignore_eos = True
        config.apply_chat_template = False
        mask = np.ones((1, len(ids)), np.int64)
        inputs = genai.TokenizedInputs(ov.Tensor(np.array([ids], np.int64)), ov.Tensor(mask))
        begin = time.perf_counter()
        result = self._pipeline.generate(inputs, config)
        elapsed_s = time.perf_counter() - begin
        prefill_s = result.perf_metrics.get_ttft().mean / 1e3
        return PeerTiming(prefill_s, 0.0, elapsed_s - prefill_s, elapsed_s, tuple(result.tokens[0]))


def load(model: str, threads: int, settings: dict[str, Any]) -> OpenVinoGenaiPeer:
    """See `PeerLoader`."""
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False  # it would answer a repeated prompt from its cache
    scheduler.max_num_batched_tokens = 8192
    properties = {"INFERENCE_NUM_THREADS": threads} if threads else {}
    return OpenVinoGenaiPeer(genai, genai.LLMPipeline(model, "CPU", scheduler_config=scheduler, **properties))
