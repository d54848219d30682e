"""A device answers only after its scores agreed with float32: wrong rows of large runs are avoided or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.llm import tiny_llms as kit
from tests.llm.tiny_llms import TinyLlms
from trisect.llm.bundle import Bundle
from trisect.llm.device_abilities import device_abilities
from trisect.llm.gate import numeric_gate
from trisect.llm.gate.numeric_gate import device_verdict, is_unchecked, load_gated_runner
from trisect.llm.gate.score_check import kl_divergence
from trisect.llm.running.generation import LanguageSession
from trisect.llm.running.kv_cache import KvCache
from trisect.llm.running.runners.chunked_runner import ChunkedRunner
from trisect.llm.running.runners.runner import Runner
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed

Damage = Callable[[np.ndarray, int], np.ndarray]


class DamagedRunner(Runner):
    """Computes scores that are wrong in some runs."""

    def __init__(self, runner: Runner, damage: Damage) -> None:
        self._inner, self._damage = runner, damage
        self.device = runner.device
        self.handover_s = 0.0

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        return self._damage(self._inner.forward(ids, start), ids.shape[-1])

    def reset(self, cache: KvCache) -> None:
        self._inner.reset(cache)

    def continue_from(self, cache: KvCache) -> None:
        self._inner.continue_from(cache)

    def rewind(self, length: int) -> int:
        return self._inner.rewind(length)

    def close(self) -> None:
        self._inner.close()


@pytest.fixture(scope="module")
def bundle(tiny_llms: TinyLlms) -> Bundle:
    return tiny_llms.get("llama", "Q4_1", metadata={"llama.context_length": 512}).bundle


@pytest.fixture
def unproved(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """OpenVINO's CPU plugin as an engine in a version that no test has compared."""
    engine = type(engines.engine_for(kit.device("cpu:openvino")))
    state = engine.decoder_support
    monkeypatch.setattr(
        engine, "decoder_support", lambda self, device: replace(state(self, device), proved_versions=())
    )
    return kit.device("cpu:openvino")


def damage(monkeypatch: pytest.MonkeyPatch, change: Damage) -> list[str]:
    """Let the model on OpenVINO compute wrong scores; return the devices that are loaded."""
    load_runner, loaded = numeric_gate.load_runner, []

    def load(bundle: Bundle, device: Device, **options: object) -> Runner:
        loaded.append(device.id)
        runner = load_runner(bundle, device, **options)  # type: ignore[arg-type]
        return DamagedRunner(runner, change) if device.id == "cpu:openvino" else runner

    monkeypatch.setattr(numeric_gate, "load_runner", load)
    return loaded


def test_right_numbers_are_found_once(bundle: Bundle, unproved: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = damage(monkeypatch, lambda scores, count: scores)
    assert is_unchecked(bundle, unproved)
    verdict = device_verdict(bundle, unproved, precision="fast")
    assert verdict is not None
    assert verdict.is_right
    assert verdict.max_run_tokens is None
    assert verdict.kl is not None
    assert 0 < verdict.kl < 0.01
    assert loaded == ["cpu:ort", "cpu:openvino"]
    assert device_verdict(bundle, unproved, precision="fast") == verdict
    assert not is_unchecked(bundle, unproved)
    assert len(loaded) == 2
    assert device_abilities(bundle, unproved).verdict == verdict.text
    assert is_unchecked(bundle, unproved, "float32")
    assert is_unchecked(bundle, replace(unproved, engine_version="another"))


def test_wrong_rows_of_large_runs_are_avoided(
    bundle: Bundle, unproved: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(monkeypatch, lambda scores, count: scores[::-1] if count > 31 else scores)
    runner = load_gated_runner(bundle, unproved, precision="fast", decodes=True, exports_cache=False)
    assert isinstance(runner, ChunkedRunner)
    assert runner.max_tokens == 31
    runner.close()
    row = device_abilities(bundle, unproved)
    assert row.max_run_tokens == 31
    assert row.verdict.startswith("right in runs of up to 31 tokens: KL ")
    prompt = kit.tokens(40, seed=3).tolist()
    answers = []
    for prefill in (unproved, kit.device("cpu:ort")):
        with LanguageSession(bundle, prefill, kit.device("cpu:ort"), threads=1, precision="fast") as session:
            answers.append(session.scores(prompt, [1, 2]))
    assert max(kl_divergence(a, b) for a, b in zip(*answers, strict=True)) < 0.01


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_wrong_numbers_are_refused_in_one_line(
    bundle: Bundle, unproved: Device, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    loaded = damage(monkeypatch, lambda scores, count: np.full_like(scores, value))
    expected = "no numbers" if np.isnan(value) else "KL "
    for _ in range(2):  # the second time from the stored verdict
        with pytest.raises(
            EngineFailed, match=f"^cpu:openvino computes .* wrongly: {expected}.*choose another"
        ) as caught:
            LanguageSession(bundle, kit.device("cpu:ort"), unproved)
        assert caught.value.device == "cpu:openvino"
    assert loaded == ["cpu:ort", "cpu:openvino"]
    row = device_abilities(bundle, unproved)
    assert (row.prefill, row.decode) == ("no", "no")
    assert row.verdict.startswith("wrong: ")


def test_the_pinned_cpu_engines_are_proved_by_these_tests() -> None:
    for name in ("cpu:ort", "cpu:openvino"):
        device = kit.device(name)
        assert device.engine_version in engines.decoder_support(device).proved_versions


def test_divergence_against_a_hand_calculation() -> None:
    expected, scores = np.log([0.5, 0.5]), np.log([0.25, 0.75])
    assert kl_divergence(expected, scores) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert kl_divergence(expected, np.array([np.nan, 0])) == float("inf")


@pytest.mark.slow  # the software driver compiles shaders for a minute
def test_attention_of_the_software_gpu_is_chunked(tiny_llms: TinyLlms, folders: Path) -> None:
    gpu = next((device for device in engines.discover() if device.id == "gpu:webgpu"), None)
    if gpu is None or gpu.is_real:
        pytest.skip("no software gpu:webgpu here: it wants onnxruntime-ep-webgpu and Mesa's lavapipe")
    bundle = tiny_llms.get("llama", "F32", "float32", metadata={"llama.context_length": 512}).bundle
    verdict = device_verdict(bundle, gpu, precision="float32")
    assert verdict is not None
    assert verdict.is_right
    assert verdict.max_run_tokens == 31
    assert "after 33 tokens" in verdict.reason or "after 300 tokens" in verdict.reason
