"""Caches that hold only a window compute what a model that keeps all tokens computes, on every runner."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.llm import tiny_llms as kit
from tests.llm.architecture_files import WINDOW, write_architecture
from tests.llm.tiny_llms import TinyLlms
from trisect.llm.bundle import Bundle, PhaseGraph
from trisect.llm.importing.model_import import open_model
from trisect.llm.running.generation import LanguageSession
from trisect.llm.running.runners.capture_graph import recordable_graph
from trisect.llm.running.runners.runner_loading import load_runner
from trisect.runtime import engines
from trisect.runtime.engines.common.decoder_support import DecoderSupport
from trisect.runtime.errors import EngineFailed

EXACT = 1e-4
LENGTH = 120
IDS = kit.tokens(LENGTH, seed=3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("windows")
    path = write_architecture(folder / "tiny.gguf", "gemma2")
    return open_model(path, weights="float32", folder=folder / "bundle")


@pytest.fixture(scope="module")
def expected(bundle: Bundle) -> np.ndarray:
    """Scores after each token, of the graph whose cache holds all of them."""
    runner = kit.growing(bundle)
    runner.reset(kit.cache_for(bundle))
    rows = kit.run_in_parts(runner, IDS, (1,) * LENGTH)
    runner.close()
    return rows


def test_the_description_tells_which_layers_hold_a_window(bundle: Bundle) -> None:
    assert [layer.window for layer in bundle.kv_layers] == [WINDOW, None, WINDOW]
    assert bundle.cache_bytes(LENGTH) == (2 * WINDOW + LENGTH) * bundle.kv_layers[0].bytes_per_token
    for file in ("in_place.onnx", "in_place.float16.onnx"):
        graph = onnx.load(Path(bundle.folder) / file, load_external_data=False).graph
        flags = [a.i for node in graph.node for a in node.attribute if a.name == "sliding_window_cache"]
        assert flags == [1, 1]


@pytest.mark.parametrize(
    ("states", "file"),
    [
        ({"windowed_cache": True, "soft_caps": True}, "in_place.onnx"),
        ({"soft_caps": True}, "in_place.full.onnx"),
        ({"windowed_cache": True}, "static.onnx"),
    ],
)
def test_a_device_gets_the_graph_for_what_its_engine_states(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, states: dict[str, bool], file: str
) -> None:
    device = kit.device("cpu:ort")
    support = DecoderSupport(("in-place", "static"), ("float32", "float16"), **states)  # type: ignore[arg-type]
    monkeypatch.setattr(engines, "decoder_support", lambda device: support)
    assert bundle.graph_for(device).file == file
    if file.startswith("in_place"):
        half = bundle.with_kv_dtype("float16")
        assert half.graph_for(device).file == file.replace(".onnx", ".float16.onnx")


def test_steps_of_a_graph_with_windows_are_not_recorded(bundle: Bundle, tiny_llms: TinyLlms) -> None:
    """Replayed, they would be those of the length at which they were recorded."""
    assert recordable_graph((Path(bundle.folder) / "in_place.full.onnx").read_bytes()) is None
    plain = tiny_llms.get("llama", "F32", "float32").bundle
    assert recordable_graph((Path(plain.folder) / "in_place.onnx").read_bytes()) is not None


def test_a_cache_of_windows_in_host_memory_needs_an_engine_that_moves_rows(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    support = DecoderSupport(("in-place",), soft_caps=True)
    monkeypatch.setattr(engines, "decoder_support", lambda device: support)
    with pytest.raises(EngineFailed, match=r"cpu:ort keeps no cache in memory of its own.*choose another device"):
        kit.in_place(bundle)


def test_the_graph_with_all_tokens_computes_the_same(bundle: Bundle, expected: np.ndarray) -> None:
    layers = tuple(replace(layer, window=None) for layer in bundle.kv_layers)
    full = replace(bundle, graphs=(PhaseGraph("in_place.full.onnx", cache="in-place"),), kv_layers=layers)
    runner, cache = kit.in_place(full), kit.cache_for(full)
    runner.reset(cache)
    parts = (50, 1, 1, 40, 28)
    np.testing.assert_allclose(kit.run_in_parts(runner, IDS, parts), expected[kit.ends(parts)], rtol=0, atol=EXACT)
    assert {buffer.shape[2] for buffer in cache.buffers.values()} == {256}
    runner.close()


@pytest.mark.slow  # the software driver compiles shaders for minutes
@pytest.mark.parametrize("architecture", ["gemma3", "olmo3", "gemma2"])
def test_a_device_with_memory_of_its_own_keeps_all_tokens_and_exchanges_windows(
    tmp_path: Path, architecture: str
) -> None:
    gpu = next((device for device in engines.discover() if device.id == "gpu:webgpu"), None)
    if gpu is None:
        pytest.skip("no gpu:webgpu here: it wants onnxruntime-ep-webgpu and a Vulkan driver, Mesa's lavapipe will do")
    path = write_architecture(tmp_path / "tiny.gguf", architecture)
    bundle = open_model(path, weights="float32", folder=tmp_path / "bundle")
    host = kit.in_place(bundle, exports_cache=True)
    cache = kit.cache_for(bundle)
    host.reset(cache)
    scores = kit.run_in_parts(host, IDS, (1,) * LENGTH)
    device = load_runner(bundle, gpu, precision="float32", decodes=True, exports_cache=True)
    for first, second in ((device, device), (host, device), (device, host)):
        cache.clear()
        first.reset(cache)
        parts = (10, 20, 10)
        np.testing.assert_allclose(kit.run_in_parts(first, IDS, parts), scores[kit.ends(parts)], rtol=0, atol=EXACT)
        if first is not second:
            second.continue_from(cache)
        np.testing.assert_allclose(
            kit.run_in_parts(second, IDS, (1,) * 40, start=40), scores[40:80], rtol=0, atol=EXACT
        )
        if first is not device:
            continue
        # The next turn: the device has all that the host has lost by computing the answer.
        assert device.rewind(38) == 38
        kit.run_in_parts(device, IDS, (16, 16), start=38)  # the software driver is wrong for 32 tokens at once
        second.continue_from(cache)
        np.testing.assert_allclose(kit.run_in_parts(second, IDS, (1,) * 5, start=70), scores[70:75], rtol=0, atol=EXACT)
    host.close()
    device.close()


@pytest.mark.parametrize("parts", [(LENGTH,), (1,) * LENGTH, (50, 1, 1, 40, 28), (16, 32, 17, 33, 22)])
def test_cuts_do_not_change_the_scores(bundle: Bundle, expected: np.ndarray, parts: tuple[int, ...]) -> None:
    runner = kit.in_place(bundle)
    cache = kit.cache_for(bundle)
    runner.reset(cache)
    scores = kit.run_in_parts(runner, IDS, parts)
    np.testing.assert_allclose(scores, expected[kit.ends(parts)], rtol=0, atol=EXACT)
    assert [buffer.shape[2] for buffer in cache.buffers.values()] == [2 * WINDOW] * 2 + [256] * 2 + [2 * WINDOW] * 2
    runner.close()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *itertools.product(("in_place", "stateful"), repeat=2),
        ("in_place", "growing"),
        ("growing", "in_place"),
    ],
)
@pytest.mark.parametrize("prompt", [10, 70])
def test_a_window_is_handed_over(bundle: Bundle, expected: np.ndarray, first: str, second: str, prompt: int) -> None:
    filler, writer = kit.KINDS[first](bundle, exports_cache=True), kit.KINDS[second](bundle)
    cache = kit.cache_for(bundle)
    filler.reset(cache)
    kit.run_in_parts(filler, IDS, (prompt - 3, 3))
    writer.continue_from(cache)
    rows = kit.run_in_parts(writer, IDS, (1,) * 40, start=prompt)
    np.testing.assert_allclose(rows, expected[prompt : prompt + 40], rtol=0, atol=EXACT)
    # The device of the prompt takes tokens back, of which the cache has lost what they need where decode extended it.
    start = filler.rewind(prompt - 2)
    if start == 0:
        assert first == "in_place"
        cache.clear()
        filler.reset(cache)
    kit.run_in_parts(filler, IDS, (80 - start,), start=start)
    writer.continue_from(cache)
    rows = kit.run_in_parts(writer, IDS, (1,) * 40, start=80)
    np.testing.assert_allclose(rows, expected[80:], rtol=0, atol=EXACT)
    filler.close()
    writer.close()


@pytest.mark.parametrize("kind", ["in_place", "growing", "stateful"])
def test_a_runner_rewinds_exactly_or_not_at_all(bundle: Bundle, expected: np.ndarray, kind: str) -> None:
    other, runner = kit.in_place(bundle, exports_cache=True), kit.KINDS[kind](bundle)
    outcomes = set()
    for length in range(60, 91, 3):
        cache = kit.cache_for(bundle)
        other.reset(cache)
        other.forward(IDS[:70], 0)
        runner.continue_from(cache)
        runner.forward(IDS[70:90], 70)
        remaining = runner.rewind(length)
        outcomes.add(remaining > 0)
        if remaining:
            assert remaining == length
            scores = kit.run_in_parts(runner, IDS, (1, 1), start=length)
            np.testing.assert_allclose(scores, expected[length : length + 2], rtol=0, atol=EXACT)
    assert outcomes == {True, False}
    other.close()
    runner.close()


@pytest.mark.parametrize(("prefill", "decode"), [("cpu:ort", "cpu:ort"), ("cpu:openvino", "cpu:ort")])
def test_a_session_that_keeps_its_cache_answers_as_one_that_does_not(bundle: Bundle, prefill: str, decode: str) -> None:
    pair = kit.device(prefill), kit.device(decode)
    with (
        LanguageSession(bundle, *pair, threads=1, precision="float32", keeps_cache=True) as keeping,
        LanguageSession(bundle, *pair, threads=1, precision="float32") as forgetting,
    ):
        ids = IDS[:20].tolist()
        for turn in range(4):
            answers = [
                session.generate(ids, max_new_tokens=25, ignore_eos=True).token_ids for session in (keeping, forgetting)
            ]
            assert answers[0] == answers[1]
            ids = [*ids, *answers[0][: 25 - 8 * turn], *IDS[turn : turn + 5].tolist()]
