"""Recurrent layers continue from the state after the last token, and from no earlier one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.llm import tiny_llms as kit
from tests.llm.architecture_files import write_architecture
from tests.llm.oracle_llama import mean_kl
from trisect.llm.importing.model_import import open_model
from trisect.llm.running.recurrent_state import RecurrentState, RecurrentStates
from trisect.runtime import engines
from trisect.runtime.engines.base import EngineCapabilities
from trisect.runtime.errors import EngineFailed


def test_a_run_reads_one_set_and_writes_the_other() -> None:
    states = RecurrentStates([RecurrentState(2, "conv", (4, 3))], batch=2)
    written = states.outputs()["present_state.2.conv"]
    assert written.shape == (2, 4, 3)
    written[...] = 5
    assert not states.inputs()["past_state.2.conv"].any()
    states.advance()
    assert states.inputs()["past_state.2.conv"] is written
    states.clear()
    assert not written.any()
    assert not RecurrentStates([])


def test_runners_continue_or_start_again(tmp_path: Path) -> None:
    bundle = open_model(write_architecture(tmp_path / "a.gguf", "qwen35"), folder=tmp_path / "bundle")
    assert [layer.index for layer in bundle.kv_layers] == [1, 3]
    assert bundle.cache_bytes(0) == sum(state.size_bytes for state in bundle.states) > 0
    ids = kit.tokens(24)
    runner = kit.in_place(bundle)
    cache = kit.cache_for(bundle)
    runner.reset(cache)
    runner.forward(ids[:9], 0)
    expected = kit.run_in_parts(runner, ids, (1, 14), start=9)
    assert runner.rewind(23) == 0
    cache.clear()
    runner.reset(cache)
    np.testing.assert_allclose(kit.run_in_parts(runner, ids, (4, 6, 1, 13))[-1], expected[-1], rtol=0, atol=1e-5)
    assert runner.rewind(24) == 24
    runner.close()


def test_weights_in_blocks(tmp_path: Path) -> None:
    names = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_gate", "attn_output", "ssm_out", "ssm_alpha", "ffn_up")
    kinds = {f"{name}.weight": "Q8_0" for name in names}
    path = write_architecture(tmp_path / "a.gguf", "qwen35", kinds=kinds)
    ids, scores = kit.tokens(20), []
    for weights in ("float32", "blocks"):
        runner = kit.in_place(bundle := open_model(path, weights=weights, folder=tmp_path / weights))
        runner.reset(kit.cache_for(bundle))
        scores.append(kit.run_in_parts(runner, ids, (12, 1, 6, 1)))
        runner.close()
    assert 0 < mean_kl(scores[0], scores[1]) < 2e-3


def test_devices_with_a_memory_of_their_own_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_model(write_architecture(tmp_path / "a.gguf", "qwen35"), folder=tmp_path / "bundle")
    assert bundle.graph_for(kit.device("cpu:ort")).file == "in_place.onnx"
    monkeypatch.setattr(engines, "capabilities", lambda device: EngineCapabilities(own_memory=True))
    with pytest.raises(EngineFailed, match="states of tiny cannot be kept yet; choose cpu:ort"):
        bundle.graph_for(kit.device("cpu:ort"))
