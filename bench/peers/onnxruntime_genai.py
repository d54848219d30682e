"""ONNX Runtime GenAI on the same weights: its own folder, or a bundle's graph in its form."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from trisect.llm.bundle import Bundle

from ..llm.genai_folder import CONFIG_FILE, genai_folder
from . import Timing


def source(model: str, bundle: Bundle) -> str:
    """See `trisect.bench.peers.Source`."""
    own = (Path(model) / CONFIG_FILE).is_file()
    return model if own else str(genai_folder(bundle))


class Peer:
    """`Generator`, greedy, on the CPU.

    No answer ends early: where a folder names tokens that end one, these are not chosen.
    """

    def load(self, model: str, threads: int, settings: dict[str, Any]) -> None:
        import onnxruntime_genai as genai

        genai.disable_telemetry_events()
        self._genai = genai
        config = genai.Config(model)
        config.clear_providers()
        if threads:
            options = {"intra_op_num_threads": threads}
            config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = genai.Model(config)

    def run(self, ids: list[int], new_tokens: int) -> Timing:
        genai = self._genai
        begun = time.perf_counter()
        params = genai.GeneratorParams(self._model)
        total = len(ids) + new_tokens
        params.set_search_options(max_length=total, min_length=total, do_sample=False, num_beams=1)
        generator = genai.Generator(self._model, params)
        generator.append_tokens(ids)
        generator.generate_next_token()
        prompt_done = time.perf_counter()
        for _ in range(new_tokens - 1):
            generator.generate_next_token()
        done = time.perf_counter()
        tokens = tuple(int(token) for token in generator.get_sequence(0)[len(ids) :])
        return Timing(prompt_done - begun, 0.0, done - prompt_done, done - begun, tokens)
