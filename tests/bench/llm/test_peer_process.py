"""A peer answers prompts in its own process, and its end is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.llm import tiny_llms as kit
from tests.llm.tiny_llms import TinyLlms
from trisect.bench.llm.peer_process import PeerProcess
from trisect.runtime.errors import EngineFailed


def test_timings_and_tokens_come_back_from_the_process(tiny_llms: TinyLlms) -> None:
    bundle = tiny_llms.get().bundle
    ids = kit.tokens(12).tolist()
    with PeerProcess("_pair", bundle.folder, 1, {"prefill": "cpu:openvino", "decode": "cpu:ort"}) as process:
        first, second = process.run(ids, 5), process.run(ids, 5)
    assert isinstance(first.token_ids, tuple)
    assert len(first.token_ids) == 5
    assert first.token_ids == second.token_ids
    assert first.end_to_end_s == pytest.approx(first.prefill_s + first.kv_s + first.decode_s)
    assert process.rss_bytes > 0


def test_a_process_that_ends_is_an_error_not_a_hang(tiny: Path) -> None:
    with pytest.raises(EngineFailed, match="failed"), PeerProcess("_pair", str(tiny.parent), 1, {}):
        pass
