"""ONNX Runtime GenAI as a peer: the same weights give the same tokens, and unsupported models are reported."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.llm.gguf_factory import write_tiny_gguf
from tests.llm.llm_folder_factory import CONTEXT, VOCAB, write_genai_folder, write_optimum_folder
from trisect.bench.llm import llm_contenders
from trisect.bench.llm.genai_folder import CONFIG_FILE, genai_folder
from trisect.bench.llm.llm_comparison import bench_llm
from trisect.bench.llm.peer_process import PeerProcess
from trisect.bench.peers import peer_source
from trisect.llm.bundle import Bundle
from trisect.llm.importing.model_import import open_model
from trisect.runtime.errors import StorageFailed, UnsupportedModel

NAME = "onnxruntime_genai"
OURS = {"prefill": "cpu:ort", "decode": "cpu:ort", "shared_graph": False}
NEW_TOKENS = 20


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf", hidden=128, heads=4, metadata={"llama.context_length": 256})


def bundle_of(path: Path, tmp_path: Path) -> Bundle:
    return open_model(path, folder=tmp_path / "bundle")


def tokens(peer: str, model: str, vocab: int, settings: dict[str, object] | None = None) -> tuple[int, ...]:
    ids = np.random.default_rng(3).integers(6, vocab, 11).tolist()
    with PeerProcess(peer, model, 1, settings or {}) as worker:
        timing = worker.run(ids, NEW_TOKENS)
    assert timing.end_to_end_s == pytest.approx(timing.prefill_s + timing.decode_s)
    assert worker.rss_bytes > 0
    return timing.token_ids


def test_a_gguf_gives_the_tokens_that_trisect_gives(gguf: Path, cache: Path, tmp_path: Path) -> None:
    pytest.importorskip(NAME, reason="needs onnxruntime-genai: pip install 'trisect[peers]'")
    bundle = bundle_of(gguf, tmp_path)
    result = tokens(NAME, peer_source(NAME, str(gguf), bundle), bundle.vocab)
    assert len(result) == NEW_TOKENS
    assert result == tokens("_pair", bundle.folder, bundle.vocab, OURS)


def test_its_own_folder_is_used_unchanged(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip(NAME, reason="needs onnxruntime-genai: pip install 'trisect[peers]'")
    folder = write_genai_folder(tmp_path / "m", context_length=CONTEXT)
    bundle = bundle_of(folder, tmp_path)
    assert peer_source(NAME, str(folder), bundle) == str(folder)
    ours = tokens("_pair", bundle.folder, VOCAB, OURS)
    theirs = tokens(NAME, str(folder), VOCAB)
    assert len(theirs) == NEW_TOKENS
    ends = {2, 5}  # it chooses something else than these
    until = next((i for i, token in enumerate(ours) if token in ends), NEW_TOKENS)
    assert theirs[:until] == ours[:until]
    assert not ends & set(theirs)


def test_it_is_compared_in_the_same_run(gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(NAME, reason="needs onnxruntime-genai: pip install 'trisect[peers]'")
    monkeypatch.setattr(llm_contenders, "external_peers", lambda: [NAME])
    result = bench_llm(
        str(gguf), prompt_tokens=(8,), new_tokens=3, rounds=1, threads=1, progress=lambda done, total, what: None
    )
    (run,) = [run for run in result.runs if run.peer == NAME]
    assert min(run.prefill_tok_s, run.decode_tok_s, run.end_to_end_s, run.rss_bytes) > 0


def test_the_weights_are_stored_once(gguf: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_of(gguf, tmp_path)
    folder = genai_folder(bundle)
    assert folder.is_relative_to(cache)
    assert (folder / "weights.bin").samefile(Path(bundle.folder) / "weights.bin")
    written = (folder / "model.onnx").stat().st_mtime_ns
    assert genai_folder(bundle) == folder
    assert (folder / "model.onnx").stat().st_mtime_ns == written
    (folder / CONFIG_FILE).unlink()  # as where writing it was interrupted

    def refuse(source: Path, target: Path) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    genai_folder(bundle)
    assert not (folder / "weights.bin").samefile(Path(bundle.folder) / "weights.bin")
    assert (folder / "weights.bin").read_bytes() == (Path(bundle.folder) / "weights.bin").read_bytes()
    decoder = json.loads((folder / CONFIG_FILE).read_text())["model"]["decoder"]
    assert (decoder["num_attention_heads"], decoder["num_hidden_layers"]) == (4, bundle.layers)


def test_unsupported_models_are_reported(gguf: Path, cache: Path, tmp_path: Path) -> None:
    optimum = write_optimum_folder(tmp_path / "optimum")
    bundle = bundle_of(optimum, tmp_path)
    with pytest.raises(UnsupportedModel, match="no graph that ONNX Runtime GenAI can run"):
        peer_source(NAME, str(optimum), bundle)
    for name in ("llama_cpp", "openvino_genai"):
        assert peer_source(name, str(gguf), bundle) == str(gguf)
        with pytest.raises(UnsupportedModel, match="it reads GGUF files only"):
            peer_source(name, str(optimum), bundle)


def test_a_cache_that_cannot_be_written_is_reported(gguf: Path, cache: Path, tmp_path: Path) -> None:
    cache.write_text("no folder")
    with pytest.raises(StorageFailed, match="cannot write"):
        genai_folder(bundle_of(gguf, tmp_path))
