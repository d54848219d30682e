"""ONNX Runtime GenAI on the same weights: its own folder, or a bundle's graph in its format."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from trisect.llm.bundle import Bundle

from ..llm.genai_folder import CONFIG_FILE, genai_folder
from . import Peer, PeerTiming


class OnnxRuntimeGenaiPeer(Peer):
    """`Generator`, greedy, on the CPU.

    With ``min_length`` set, its end-of-sequence tokens are never chosen: no answer ends early.
    """

    def __init__(self, library: Any, model: Any) -> None:
        self._library = library
        self._model = model

    def run(self, ids: list[int], new_tokens: int) -> PeerTiming:
        genai = self._library
        begin = time.perf_counter()
        params = genai.GeneratorParams(self._model)
        total = len(ids) + new_tokens
        params.set_search_options(max_length=total, min_length=total, do_sample=False, num_beams=1)
        generator = genai.Generator(self._model, params)
        generator.append_tokens(ids)
        generator.generate_next_token()
        prompt_done = time.perf_counter()
        for _ in range(new_tokens - 1):
            generator.generate_next_token()
        end = time.perf_counter()
        tokens = tuple(int(token) for token in generator.get_sequence(0)[len(ids) :])
        return PeerTiming(prompt_done - begin, 0.0, end - prompt_done, end - begin, tokens)


def source(model: str, bundle: Bundle) -> str:
    """See `PeerSource`."""
    is_genai_folder = (Path(model) / CONFIG_FILE).is_file()
    return model if is_genai_folder else str(genai_folder(bundle))


def load(model: str, threads: int, settings: dict[str, Any]) -> OnnxRuntimeGenaiPeer:
    """See `PeerLoader`."""
    import onnxruntime_genai as genai

    genai.disable_telemetry_events()
    config = genai.Config(model)
    config.clear_providers()
    if threads:
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    return OnnxRuntimeGenaiPeer(genai, genai.Model(config))
