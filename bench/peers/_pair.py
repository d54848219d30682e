"""trisect itself, on one device or on a pair of devices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trisect.llm.bundle import Bundle
from trisect.llm.running.generation import LanguageSession
from trisect.llm.running.runners.static_loading import FixedShapes
from trisect.runtime import engines

from . import Peer, PeerTiming


class TrisectPeer(Peer):
    """`LanguageSession` on a prefill and a decode device."""

    def __init__(self, session: LanguageSession) -> None:
        self._session = session

    def run(self, ids: list[int], new_tokens: int) -> PeerTiming:
        answer = self._session.generate(ids, max_new_tokens=new_tokens, ignore_eos=True)
        stats = answer.stats
        return PeerTiming(stats.prefill_s, stats.kv_s, stats.decode_s, stats.end_to_end_s, answer.token_ids)


def load(model: str, threads: int, settings: dict[str, Any]) -> TrisectPeer:
    """Load a bundle on the devices ``prefill`` and ``decode`` of the settings.

    With the setting ``shared_graph`` all engines run the same graph, as if the model were a single file.
    """
    bundle = Bundle.load(model).with_kv_dtype(settings.get("kv_dtype", "auto"))
    if settings.get("shared_graph"):
        shared = [
            replace(graph, cache="grown")
            for graph in bundle.graphs
            if (graph.cache, graph.kv_dtype) == ("in-place", "float32")
        ]
        bundle = replace(bundle, graphs=tuple(shared))
    prefill, decode = (engines.find_devices(settings[phase])[0] for phase in ("prefill", "decode"))
    fixed = FixedShapes(settings.get("context_tokens"))
    return TrisectPeer(LanguageSession(bundle, prefill, decode, threads=threads or None, fixed=fixed))
