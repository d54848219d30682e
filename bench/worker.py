"""One contender in a process of its own, driven over its standard input and output: one JSON document a line.

    {"peer": "openvino_genai", "model": "m.gguf", "threads": 2, "settings": {}}   ->  {"ready": true}
    {"ids": [1, 2, 3], "new_tokens": 64}                                          ->  a Timing, and "rss_bytes"

A worker that waits takes no time from the one that runs, so that contenders can take turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import Any, Self

import psutil

from trisect.runtime.errors import EngineFailed

from .peers import Timing, make


class Worker:
    """A contender's process; a context manager."""

    def __init__(self, peer: str, model: str, threads: int | None, settings: dict[str, Any]) -> None:
        self._peer = peer
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trisect.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.rss_bytes = 0
        try:
            self._ask({"peer": peer, "model": model, "threads": threads or 0, "settings": settings})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def run(self, ids: list[int], new_tokens: int) -> Timing:
        """Answer once.

        Raises
        ------
        EngineFailed
            With the contender's own reason.
        """
        answer = self._ask({"ids": ids, "new_tokens": new_tokens})
        self.rss_bytes = max(self.rss_bytes, answer.pop("rss_bytes"))
        return Timing(**(answer | {"token_ids": tuple(answer["token_ids"])}))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(question) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            raise EngineFailed(f"{self._peer} failed: {answer['error']}")
        return answer


def main() -> None:
    """Serve one contender until standard input ends."""
    # Libraries print to standard output from C too; only answers may reach the pipe.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if peer is None:
                peer = make(question["peer"])
                peer.load(question["model"], question["threads"], question["settings"])
                answer: dict[str, Any] = {"ready": True}
            else:
                answer = asdict(peer.run(question["ids"], question["new_tokens"]))
                answer["rss_bytes"] = psutil.Process().memory_info().rss
        except Exception as error:  # a contender may fail in any way; the bench goes on without it
            answer = {"error": " ".join(str(error).split())[:300] or type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
