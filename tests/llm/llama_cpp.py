"""llama.cpp as an oracle: token ids and scores of a GGUF file, from a process with its own virtual environment.

`make llama-cpp` installs it: the package `cyllama` (MIT) has llama.cpp b9190 compiled for Linux, macOS and Windows.
Compare with files in float32: with others, llama.cpp rounds activations too (to 8 bits, or to float16).
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROCESS = Path(__file__).with_name("llama_cpp_process.py")


class LlamaCpp:
    """A process that runs llama.cpp; started by the first question.

    The environment variable ``TRISECT_LLAMA_CPP`` names another virtual environment than ``.cache/llama-cpp``.
    """

    def __init__(self) -> None:
        folder = Path(os.environ.get("TRISECT_LLAMA_CPP", ROOT / ".cache" / "llama-cpp"))
        self._python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if not self._python.exists():
            pytest.skip(f"llama.cpp is not in {folder}: run `make llama-cpp`")
        self._process: subprocess.Popen[str] | None = None

    def tokenize(
        self, path: Path, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = True
    ) -> list[list[int]]:
        """Token ids of texts."""
        ids: list[list[int]] = self._ask(
            "tokenize", path, texts=list(texts), add_special=add_special, parse_special=parse_special
        )
        return ids

    def pieces(self, path: Path, ids: Sequence[int]) -> list[str]:
        """The texts of tokens, as the vocabulary has them."""
        texts: list[str] = self._ask("pieces", path, ids=list(ids))
        return texts

    def end_tokens(self, path: Path) -> list[int]:
        """Tokens that end an answer."""
        ids: list[int] = self._ask("end_tokens", path)
        return ids

    def scores(
        self, path: Path, prompt: Sequence[int], following: Sequence[int] = (), *, threads: int = 1
    ) -> np.ndarray:
        """Scores after a prompt and after each token that follows it, float32 [1 + len(following), vocabulary]."""
        data = self._ask("scores", path, prompt=list(prompt), following=list(following), threads=threads)
        return np.frombuffer(base64.b64decode(data), np.float32).reshape(1 + len(following), -1)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()

    def _ask(self, method: str, path: Path, **arguments: Any) -> Any:
        if self._process is None:
            self._process = subprocess.Popen(
                [str(self._python), "-P", str(PROCESS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"GGML_NO_BACKTRACE": "1"},  # starts a debugger otherwise
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"method": method, "path": str(path), "arguments": arguments}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"llama.cpp crashed on {path.name} ({method}); exit code {self._process.wait()}"
        reply = json.loads(line)
        assert "error" not in reply, f"llama.cpp refuses {path.name}: {reply['error']}"
        return reply["result"]
