"""A peer that answers prompts, in a process of its own.

{"peer": "openvino_genai", "model": "m.gguf", "threads": 2, "settings": {}}   ->  {"ready": true}
{"ids": [1, 2, 3], "new_tokens": 64}                                          ->  a Timing, and "rss_bytes"
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import psutil

from ..comparing.asking import Answer, Asked, answer_all
from ..peers import Peer, Timing, make


class Worker(Asked):
    """A contender's process; a context manager."""

    def __init__(self, peer: str, model: str, threads: int | None, settings: dict[str, Any]) -> None:
        super().__init__("trisect.bench.llm.peer_process", peer)
        self.rss_bytes = 0
        try:
            self.ask({"peer": peer, "model": model, "threads": threads or 0, "settings": settings})
        except BaseException:
            self.close()
            raise

    def run(self, ids: list[int], new_tokens: int) -> Timing:
        """Answer once.

        Raises
        ------
        EngineFailed
            With the contender's own reason.
        """
        answer = self.ask({"ids": ids, "new_tokens": new_tokens})
        self.rss_bytes = max(self.rss_bytes, answer.pop("rss_bytes"))
        return Timing(**(answer | {"token_ids": tuple(answer["token_ids"])}))


def main() -> None:
    """Serve one contender until standard input ends."""
    peers: list[Peer] = []

    def answer(question: Answer) -> Answer:
        if not peers:
            peer = make(question["peer"])
            peer.load(question["model"], question["threads"], question["settings"])
            peers.append(peer)
            return {"ready": True}
        timing = asdict(peers[0].run(question["ids"], question["new_tokens"]))
        return timing | {"rss_bytes": psutil.Process().memory_info().rss}

    answer_all(answer)


if __name__ == "__main__":
    main()
