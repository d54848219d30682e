"""A peer that answers prompts in a process of its own.

{"peer": "openvino_genai", "model": "m.gguf", "threads": 2, "settings": {}}   ->  null
{"ids": [1, 2, 3], "new_tokens": 64}                                          ->  {"timing": ..., "rss_bytes": ...}
"""

from __future__ import annotations

from typing import Any

import msgspec
import psutil

from trisect.runtime.child_process import ChildProcess

from ..peers import Peer, PeerTiming, load_peer


class PeerProcess(ChildProcess):
    """A peer's process; a context manager."""

    def __init__(self, peer: str, model: str, threads: int | None, settings: dict[str, Any]) -> None:
        super().__init__(PeerHandler, peer)
        self.rss_bytes = 0
        try:
            self.request({"peer": peer, "model": model, "threads": threads or 0, "settings": settings})
        except BaseException:
            self.close()
            raise

    def run(self, ids: list[int], new_tokens: int) -> PeerTiming:
        """Answer one prompt; see `Peer.run`.

        Raises
        ------
        ChildProcessFailed
            With the peer's own reason.
        """
        reply = self.request({"ids": ids, "new_tokens": new_tokens})
        self.rss_bytes = max(self.rss_bytes, reply["rss_bytes"])
        return msgspec.convert(reply["timing"], PeerTiming)


class PeerHandler:
    """Serves one peer in its process; the first request loads it."""

    def __init__(self) -> None:
        self._peer: Peer | None = None

    def __call__(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Answer one request."""
        if self._peer is None:
            self._peer = load_peer(request["peer"], request["model"], request["threads"], request["settings"])
            return None
        timing = self._peer.run(request["ids"], request["new_tokens"])
        return {"timing": timing, "rss_bytes": psutil.Process().memory_info().rss}
