"""trisect itself, on one device or on a pair of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trisect.llm.bundle import Bundle
from trisect.llm.running.generation import LanguageSession
from trisect.runtime import engines
from trisect.runtime.device import select

from . import Timing


class Peer:
    """`LanguageSession` on the devices that the settings name.

    With ``shared_graph`` every engine gets the one graph that all of them can run, as where a model is a single file.
    """

    def load(self, model: str, threads: int, settings: dict[str, Any]) -> None:
        bundle = Bundle.load(model)
        if settings.get("shared_graph"):
            shared = [replace(graph, cache="grown") for graph in bundle.graphs if not graph.engines]
            bundle = replace(bundle, graphs=tuple(shared))
        prefill, decode = (select(settings[phase], engines.discover())[0] for phase in ("prefill", "decode"))
        self._session = LanguageSession(bundle, prefill, decode, threads=threads or None)

    def run(self, ids: list[int], new_tokens: int) -> Timing:
        answer = self._session.generate(ids, max_new_tokens=new_tokens, ignore_eos=True)
        stats = answer.stats
        return Timing(stats.prefill_s, stats.kv_s, stats.decode_s, stats.end_to_end_s, answer.token_ids)
