"""What a language model takes in memory is known before it is loaded, and decides where it is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.llm import tiny_llms as kit
from tests.llm.phases.test_quick_choice import profile, store
from trisect.llm.bundle import Bundle, StoredForm
from trisect.llm.generate import open_bundle
from trisect.llm.phases import model_memory
from trisect.llm.phases.model_memory import (
    ModelSizes,
    devices_too_many,
    longest_context,
    memory_need,
    shortage,
    weights_memory,
)
from trisect.llm.phases.quick_choice import choose_at_once
from trisect.llm.running.generation import LanguageSession
from trisect.llm.running.kv_layer import equal_layers
from trisect.runtime import engines
from trisect.runtime.engines.base import UNPACKED, EngineCapabilities
from trisect.runtime.errors import OutOfMemory

ORT, OPENVINO = kit.device("cpu:ort"), kit.device("cpu:openvino")
FORMS = (
    StoredForm("Q6_K", "both", "", 1 << 20, 0.0, bits=8, block=16),
    StoredForm("Q4_K", "decode", "", 1 << 20, 0.0, bits=4, block=32, has_offsets=True),
    StoredForm("Q4_K", "prefill", "", 1 << 20, 0.0, bits=8, block=64),
)
SIZES = ModelSizes(
    weights_bytes=1 << 21, kv_layers=equal_layers(4, 2, 32), context_length=4096, forms=FORMS, layer_values=1000
)
CACHE = 4 * 2 * 2 * 32 * 4
"""Bytes of a token in float32."""


@pytest.fixture
def bundle(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(engines, "discover", lambda: [OPENVINO, ORT])
    return open_bundle(gguf)


def free(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    monkeypatch.setattr(model_memory, "free_bytes", lambda: size_bytes)


def test_each_engine_holds_the_weights_of_its_graph_in_its_own_way() -> None:
    memory = engines.capabilities(ORT).memory
    levels = (1 << 20) + (1 << 19)
    blocks, offsets = (1 << 16) + (1 << 15), 1 << 15
    assert weights_memory(SIZES, ORT) - memory.base_bytes == levels + 12 * blocks + 4 * offsets
    assert weights_memory(SIZES, OPENVINO) > 2 * (1 << 21)  # packed for single tokens and for prompts


def test_weights_that_are_not_described_count_by_their_size() -> None:
    unknown = replace(SIZES, forms=())
    assert weights_memory(unknown, ORT) - engines.capabilities(ORT).memory.base_bytes == 1 << 21


def test_the_cache_grows_with_the_context_up_to_that_of_the_model() -> None:
    assert memory_need(SIZES, [ORT], 1000).cache_bytes == 1000 * CACHE
    assert memory_need(SIZES, [ORT], 10**9).cache_bytes == 4096 * CACHE
    assert memory_need(SIZES, [ORT, ORT], 1000) == memory_need(SIZES, [ORT], 1000)  # loaded once


def test_two_engines_hold_the_weights_twice_and_exchange_the_cache() -> None:
    first, second, both = (memory_need(SIZES, devices, 100) for devices in ([OPENVINO], [ORT], [OPENVINO, ORT]))
    assert both.weights_bytes == first.weights_bytes + second.weights_bytes
    assert both.cache_bytes == first.cache_bytes + second.cache_bytes


def test_windowed_layers_count_by_what_each_device_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = tuple(replace(layer, window=None if layer.index == 3 else 64) for layer in SIZES.kv_layers)
    windowed, tokens = replace(SIZES, kv_layers=layers), 2000
    row = layers[0].bytes_per_token
    assert memory_need(windowed, [ORT], tokens).cache_bytes == (tokens + 3 * 2 * 64) * row
    assert memory_need(windowed, [OPENVINO], tokens) == memory_need(SIZES, [OPENVINO], tokens)
    assert memory_need(windowed, [ORT], 50) == memory_need(SIZES, [ORT], 50)
    assert longest_context(windowed, [ORT], memory_need(SIZES, [ORT], 1000).total_bytes) > 1000
    own = EngineCapabilities(own_memory=True, memory=UNPACKED)
    monkeypatch.setattr(engines, "capabilities", lambda device: own)
    assert memory_need(windowed, [ORT], tokens) == memory_need(SIZES, [ORT], tokens)


def test_the_longest_context_is_the_last_one_that_fits() -> None:
    available = memory_need(SIZES, [ORT], 1234).total_bytes
    assert longest_context(SIZES, [ORT], available) == 1234
    assert longest_context(SIZES, [ORT], 1 << 50) == 4096
    assert longest_context(SIZES, [ORT], 1000) == 0


def test_a_shortage_states_what_is_needed_and_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 1 << 20)
    text = shortage(SIZES, [ORT], 1000)
    assert text.startswith("cpu:ort needs ")
    assert "KV cache of 1000 tokens 2.05 MB" in text
    assert "1.05 MB are free" in text
    free(monkeypatch, 1 << 40)
    assert not shortage(SIZES, [ORT, OPENVINO], 1000)


def test_the_device_that_takes_most_is_left_out_of_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, memory_need(SIZES, [ORT], 1000).total_bytes)
    assert list(devices_too_many(SIZES, [ORT, OPENVINO], 1000)) == ["cpu:openvino"]


def test_a_split_that_does_not_fit_becomes_one_device(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    store(bundle, profile(bundle, model="another"))
    request = {"prompt_tokens": 50, "new_tokens": 50}
    split = choose_at_once(bundle, **request)
    assert (split.prefill, split.decode) == (OPENVINO, ORT)
    free(monkeypatch, memory_need(ModelSizes.of(bundle), [ORT, OPENVINO], 100).total_bytes - 1)
    choice = choose_at_once(bundle, **request)
    assert choice.prefill == choice.decode
    assert choice.predicted is not None
    assert choice.predicted.prefill == choice.prefill.id
    assert f"{choice.prefill.id} is used instead" in choice.notes[-1]


def test_what_fits_nowhere_is_refused_before_it_is_loaded(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, memory_need(ModelSizes.of(bundle), [ORT], 20).total_bytes)
    with pytest.raises(OutOfMemory, match="does not fit: cpu:ort needs") as raised:
        choose_at_once(bundle, prompt_tokens=64, new_tokens=64)
    assert raised.value.remedy is not None
    assert "a context of at most 20 tokens" in raised.value.remedy
    free(monkeypatch, 1000)
    with pytest.raises(OutOfMemory) as raised:
        choose_at_once(bundle, "cpu:openvino", "cpu:ort", prompt_tokens=64, new_tokens=64)
    assert raised.value.remedy == "free some memory, or use a smaller model"


@pytest.mark.parametrize("device", [ORT, OPENVINO], ids=lambda device: device.id)
def test_the_prediction_is_not_exceeded(bundle: Bundle, device: kit.Device) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    with LanguageSession(bundle, device, device, threads=1) as session:
        session.generate(list(range(1, 65)), max_new_tokens=16, ignore_eos=True)
        taken = process.memory_info().rss - before
    assert taken <= memory_need(ModelSizes.of(bundle), [device], 80).total_bytes + bundle.weights_bytes
