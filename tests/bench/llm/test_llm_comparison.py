"""The comparison of devices and peers on a language model, on a tiny one."""

from __future__ import annotations

from pathlib import Path

import pytest

from trisect.bench.llm import llm_contenders
from trisect.bench.llm.llm_comparison import bench_llm
from trisect.runtime.progress import no_progress


def test_every_pair_answers_alike_and_is_timed_and_a_peer_that_fails_is_left_out_with_its_reason(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm_contenders, "external_peers", lambda: ["no_such_peer"])
    monkeypatch.setattr(llm_contenders, "is_installed", lambda package: True)
    monkeypatch.setattr(llm_contenders, "peer_source", lambda name, model, bundle: model)
    result = bench_llm(str(tiny), prompt_tokens=(8, 32), new_tokens=4, rounds=2, threads=1, progress=no_progress)
    pairs = {(run.prefill, run.decode) for run in result.runs if run.peer is None}
    assert pairs == {(p, d) for p in ("cpu:ort", "cpu:openvino") for d in ("cpu:ort", "cpu:openvino")}
    assert {run.prompt_tokens for run in result.runs} == {8, 32}
    for run in result.runs:
        assert min(run.prefill_tok_s, run.decode_tok_s, run.end_to_end_s, run.rss_bytes) > 0
        assert (run.kv_bytes > 0) == (run.prefill != run.decode)
        assert (run.predicted_s is not None) == (run.peer is None)
    assert [choice.prompt_tokens for choice in result.choices] == [8, 32]
    assert result.overhead is not None
    assert result.ratio == result.best_single_s / result.best_pair_s
    assert {run.peer for run in result.runs} == {None, "one graph for all engines"}
    assert any("no_such_peer is left out" in note for note in result.notes)
