"""Answers questions about GGUF files with llama.cpp, one JSON document per line: run by `llama_cpp.py` in its own venv.

It imports nothing of trisect or of the tests, since its virtual environment holds the package `cyllama` only.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from array import array
from typing import Any

import cyllama.llama.llama_cpp as lib

_FLOAT32 = 0
"""`GGML_TYPE_F32` in ggml.h."""
_FLASH_ATTENTION_OFF = 0
"""`LLAMA_FLASH_ATTN_TYPE_DISABLED` in llama.h; flash attention rounds to float16."""
_BATCH_TOKENS = 512


class _LlamaModel(lib.LlamaModel):  # type: ignore[misc]
    """With the attribute that `get_logits` of cyllama 0.2.18 reads and its own class lacks."""

    @property
    def n_vocab(self) -> int:
        return int(self.get_vocab().n_vocab)


class Model:
    """A GGUF file in llama.cpp, with a KV cache in float32."""

    def __init__(self, path: str) -> None:
        params = lib.LlamaModelParams()
        params.n_gpu_layers = 0
        self._model = _LlamaModel(path_model=path, params=params)
        self._vocab = self._model.get_vocab()

    def tokenize(self, texts: list[str], add_special: bool, parse_special: bool) -> list[list[int]]:
        return [self._vocab.tokenize(text, add_special, parse_special) for text in texts]

    def pieces(self, ids: list[int]) -> list[str]:
        return [self._vocab.get_text(token) for token in ids]

    def end_tokens(self) -> list[int]:
        return [token for token in range(self._vocab.n_vocab) if self._vocab.is_eog(token)]

    def scores(self, prompt: list[int], following: list[int], threads: int) -> bytes:
        """Scores after the prompt and after each following token, float32 [1 + len(following), vocabulary]."""
        params = lib.LlamaContextParams()
        params.n_ctx = len(prompt) + len(following) + 1
        params.n_batch = _BATCH_TOKENS
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = _FLOAT32
        params.flash_attn_type = _FLASH_ATTENTION_OFF
        context = lib.LlamaContext(model=self._model, params=params)
        rows = array("f")
        batch = lib.LlamaBatch(n_tokens=_BATCH_TOKENS, embd=0, n_seq_max=1)
        chunks = [prompt[at : at + _BATCH_TOKENS] for at in range(0, len(prompt), _BATCH_TOKENS)]
        position = 0
        for number, ids in enumerate([*chunks, *([token] for token in following)]):
            batch.set_batch(ids, position, False)
            batch.set_last_logits_to_true()
            context.decode(batch)
            position += len(ids)
            if number >= len(chunks) - 1:
                rows.extend(context.get_logits())
        context.close()
        return rows.tobytes()


def main() -> None:
    """Answer requests until standard input ends."""
    # llama.cpp writes to standard output too.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    lib.disable_logging()
    models: dict[tuple[str, int], Model] = {}
    for line in sys.stdin:
        request = json.loads(line)
        reply: dict[str, Any]
        try:
            path = request["path"]
            # A test may write another file to the same path.
            key = (path, os.stat(path).st_mtime_ns)
            if key not in models:
                models.clear()
                models[key] = Model(path)
            result = getattr(models[key], request["method"])(**request["arguments"])
            reply = {"result": base64.b64encode(result).decode() if isinstance(result, bytes) else result}
        except Exception as error:  # reported to the test
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
