"""llama.cpp on the same GGUF, through llama-cpp-python."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from . import Timing
from . import gguf_file as source

__all__ = ["Peer", "source"]


class Peer:
    """`Llama.eval`, greedy."""

    def load(self, model: str, threads: int, settings: dict[str, Any]) -> None:
        import llama_cpp

        self._library = llama_cpp
        options: dict[str, Any] = {"n_threads": threads, "n_threads_batch": threads} if threads else {}
        self._model = llama_cpp.Llama(model, n_ctx=2304, n_batch=512, verbose=False, **options)

    def run(self, ids: list[int], new_tokens: int) -> Timing:
        model = self._model
        model.reset()
        begun = time.perf_counter()
        model.eval(ids)
        tokens = [self._best()]
        prompt_done = time.perf_counter()
        for _ in range(new_tokens - 1):
            model.eval(tokens[-1:])
            tokens.append(self._best())
        done = time.perf_counter()
        return Timing(prompt_done - begun, 0.0, done - prompt_done, done - begun, tuple(tokens))

    def scores(self, ids: list[int], following: list[int]) -> np.ndarray:
        """Scores after a prompt and after each token that follows it, float32 [1 + len(following), vocabulary]."""
        self._model.reset()
        self._model.eval(ids)
        rows = [self._last_scores().copy()]
        for token in following:
            self._model.eval([token])
            rows.append(self._last_scores().copy())
        return np.stack(rows)

    def _best(self) -> int:
        return int(self._last_scores().argmax())

    def _last_scores(self) -> np.ndarray:
        pointer = self._library.llama_get_logits_ith(self._model.ctx, -1)
        return np.ctypeslib.as_array(pointer, (self._model.n_vocab(),))
