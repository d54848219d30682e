"""llama.cpp on the same GGUF file, through llama-cpp-python."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import psutil

from . import Peer, PeerTiming
from . import gguf_file as source

__all__ = ["LlamaCppPeer", "load", "source"]


class LlamaCppPeer(Peer):
    """`Llama.eval`, greedy."""

    def __init__(self, library: Any, model: Any) -> None:
        self._library = library
        self._model = model

    def run(self, ids: list[int], new_tokens: int) -> PeerTiming:
        model = self._model
        model.reset()
        begin = time.perf_counter()
        model.eval(ids)
        tokens = [int(self._last_scores().argmax())]
        prompt_done = time.perf_counter()
        for _ in range(new_tokens - 1):
            model.eval(tokens[-1:])
            tokens.append(int(self._last_scores().argmax()))
        end = time.perf_counter()
        return PeerTiming(prompt_done - begin, 0.0, end - prompt_done, end - begin, tuple(tokens))

    def scores(self, ids: list[int], following: list[int]) -> np.ndarray:
        """Return the scores after a prompt and after each following token, float32 [1 + len(following), vocabulary]."""
        self._model.reset()
        self._model.eval(ids)
        rows = [self._last_scores().copy()]
        for token in following:
            self._model.eval([token])
            rows.append(self._last_scores().copy())
        return np.stack(rows)

    def _last_scores(self) -> np.ndarray:
        pointer = self._library.llama_get_logits_ith(self._model.ctx, -1)
        return np.ctypeslib.as_array(pointer, (self._model.n_vocab(),))


def load(model: str, threads: int, settings: dict[str, Any]) -> LlamaCppPeer:
    """See `PeerLoader`."""
    import llama_cpp

    # One per physical core, as llama.cpp's own programs do: the Python package would decode on half of the cores.
    count = threads or psutil.cpu_count(logical=False) or 1
    library = llama_cpp.Llama(model, n_ctx=2304, n_batch=512, verbose=False, n_threads=count, n_threads_batch=count)
    return LlamaCppPeer(llama_cpp, library)
