"""The comparison of devices and peers on a language model, on a tiny one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.llm.gguf_factory import write_tiny_gguf
from trisect.bench.llm import answer_quality as quality
from trisect.bench.llm import llm_comparison as llm
from trisect.bench.llm.answer_quality import bench_quality, compare
from trisect.bench.llm.llm_comparison import bench_llm
from trisect.bench.llm.peer_process import PeerProcess
from trisect.bench.peers import Timing
from trisect.runtime.errors import EngineFailed


def silent(done: int, total: int, what: str) -> None:
    """No one watches."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Long enough a context for the lengths at which phases are measured.
    metadata = {"llama.context_length": 256}
    return write_tiny_gguf(tmp_path_factory.mktemp("bench") / "tiny.gguf", hidden=128, heads=4, metadata=metadata)


def test_every_pair_answers_alike_and_is_timed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "external", list)
    result = bench_llm(str(tiny), prompt_tokens=(8, 32), new_tokens=4, rounds=2, threads=1, progress=silent)
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


def test_a_peer_that_fails_is_left_out_with_its_reason(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "external", lambda: ["no_such_peer"])
    monkeypatch.setattr(llm, "is_installed", lambda package: True)
    monkeypatch.setattr(llm, "source", lambda name, model, bundle: model)
    result = bench_llm(str(tiny), prompt_tokens=(8,), new_tokens=2, rounds=1, threads=1, progress=silent)
    assert any("no_such_peer is left out" in note for note in result.notes)
    assert all(run.peer != "no_such_peer" for run in result.runs)


def test_a_worker_that_dies_is_an_error_not_a_hang(tiny: Path) -> None:
    with pytest.raises(EngineFailed, match="failed"), PeerProcess("_pair", str(tiny.parent), 1, {}):
        pass


def test_divergence_ignores_a_shift_and_sees_a_change() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 50))
    kl, same = compare(scores, scores + 7)
    assert np.allclose(kl, 0)
    assert same.all()
    other = np.log(np.array([[0.5, 0.5]]))
    kl, same = compare(np.log(np.array([[0.9, 0.1]])), other)
    assert kl[0] == pytest.approx(0.9 * np.log(1.8) + 0.1 * np.log(0.2))


def test_quality_of_every_pair_is_close_to_float32(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "is_installed", lambda package: False)
    result = bench_quality(str(tiny), new_tokens=6, prompts=["a b c", "hello"], progress=silent)
    assert len(result) == 4
    for each in result:
        assert each.tokens == 12
        assert each.mean_kl < 0.05


def test_timing_survives_the_pipe() -> None:
    timing = Timing(0.1, 0.0, 0.2, 0.3, (1, 2))
    assert Timing(**vars(timing)) == timing
