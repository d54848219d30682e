"""Graphs of fixed shapes compute what plain numpy does, alone and after a hand-over in either direction."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.llm import tiny_llms as kit
from tests.llm.architecture_files import write_architecture
from tests.llm.oracle_llama import mean_kl
from tests.llm.tiny_llms import TinyLlm, TinyLlms
from trisect.llm.bundle import Bundle
from trisect.llm.importing.model_import import open_model
from trisect.llm.running.generation import LanguageSession
from trisect.llm.running.runners import compile_limit, static_loading
from trisect.llm.running.runners.runner import Runner
from trisect.llm.running.runners.runner_loading import load_runner
from trisect.llm.running.runners.static_loading import FixedShapes
from trisect.runtime import engines
from trisect.runtime.device import Device, Limits
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import ContextExceeded, EngineFailed, EngineMissing, UnknownDevice
from trisect.runtime.isolated_calls import call_isolated

PARTS = (7, 5, 1, 1, 17, 1)
IDS = kit.tokens(sum(PARTS))
EXACT = 1e-4
HALF_KL = 1e-4
"""Of a device that computes in float16; seen: 5e-6."""
NPUW = "npu:npuw"


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_loading, "CHUNK_TOKENS", (8,))


@pytest.fixture(scope="module")
def tiny(tiny_llms: TinyLlms) -> TinyLlm:
    return tiny_llms.get("llama", "F32", "float32", metadata={"llama.context_length": 700})


def static(name: str) -> Device:
    """A device that needs fixed shapes, or one of this machine as if it did."""
    try:
        device = engines.find_devices(name)[0]
    except (UnknownDevice, EngineMissing) as error:
        pytest.skip(f"{name}: {error}")
    return replace(device, limits=Limits(static_shapes=True))


def loaded(bundle: Bundle, device: Device, *, exports_cache: bool = False, **options: Any) -> Runner:
    settings: dict[str, Any] = {"threads": 1, "precision": "float32", "decodes": not exports_cache}
    settings |= {"exports_cache": exports_cache, "fixed": FixedShapes(60)} | options
    return load_runner(bundle, device, **settings)


def handed_over(bundle: Bundle, make: tuple[Callable[..., Runner], Callable[..., Runner]]) -> np.ndarray:
    """Scores after the first 13 tokens, computed by one runner, and after each of 7 computed by another."""
    source, target, cache = make[0](bundle, exports_cache=True), make[1](bundle), kit.cache_for(bundle)
    source.reset(cache)
    scores = [source.forward(IDS[:13], 0).copy()]
    target.continue_from(cache)
    scores += [target.forward(IDS[at : at + 1], at).copy() for at in range(13, 20)]
    source.close()
    target.close()
    return np.stack(scores)


@pytest.mark.parametrize("name", ["cpu:ort", "cpu:openvino", NPUW])
@pytest.mark.parametrize(("arch", "quant"), [("llama", "F32"), ("qwen2", "Q8_0"), ("qwen3", "F16")])
def test_chunks_and_single_tokens_equal_numpy(tiny_llms: TinyLlms, arch: str, quant: str, name: str) -> None:
    tiny = tiny_llms.get(arch, quant, "float32")
    runner = loaded(tiny.bundle, static(name))
    runner.reset(kit.cache_for(tiny.bundle))
    expected = tiny.oracle.logits(IDS.tolist())[kit.ends(PARTS)]
    np.testing.assert_allclose(kit.run_in_parts(runner, IDS, PARTS), expected, rtol=0, atol=EXACT)
    # What is behind the first tokens is masked after a rewind.
    assert runner.rewind(9) == 9
    again = runner.forward(IDS[9:20], 9)
    np.testing.assert_allclose(again, tiny.oracle.logits(IDS[:20].tolist())[-1], rtol=0, atol=EXACT)
    runner.close()


@pytest.mark.parametrize("variant", ["gemma2", "gemma3", "smollm3", "phi4", "olmo3"])
def test_windows_soft_caps_and_partial_rotations(variant: str, tmp_path: Path) -> None:
    """As the graph with a growing cache on ONNX Runtime computes them; windows are shorter than the prompt."""
    path = write_architecture(tmp_path / f"{variant}.gguf", variant)
    bundle = open_model(path, weights="float32", folder=tmp_path / "bundle")
    scores = []
    for runner in (loaded(bundle, static("cpu:openvino")), kit.growing(bundle)):
        runner.reset(kit.cache_for(bundle))
        scores.append(kit.run_in_parts(runner, IDS, PARTS))
        runner.close()
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", ["cpu:openvino", NPUW])
def test_caches_are_handed_over_in_all_directions(tiny: TinyLlm, name: str) -> None:
    fixed = functools.partial(loaded, device=static(name))
    expected = tiny.oracle.logits(IDS.tolist())[12:20]
    pairs = [(fixed, fixed), (fixed, kit.in_place), (kit.in_place, fixed), (fixed, kit.stateful), (kit.stateful, fixed)]
    for pair in pairs:
        np.testing.assert_allclose(handed_over(tiny.bundle, pair), expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_0"])
def test_the_npu_simulator_in_all_directions(
    tiny_llms: TinyLlms, quant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[dict[str, int]] = []

    def call(function: Any, limit_s: float, path: Path, device: Device, options: LoadOptions) -> Any:
        compiled.append(dict(options.shapes))
        return call_isolated(function, limit_s, path, device, options)

    monkeypatch.setattr(compile_limit, "call_isolated", call)
    monkeypatch.setattr(static_loading, "compiled_folder", lambda _: tmp_path)
    tiny = tiny_llms.get("llama", quant)
    npu = functools.partial(loaded, device=static("npu:qnn"))
    expected = tiny.oracle.logits(IDS.tolist())[12:20]
    for pair in ((npu, npu), (npu, kit.in_place), (kit.in_place, npu)):
        scores = handed_over(tiny.bundle, pair)
        assert mean_kl(expected, scores) < (HALF_KL if kit.in_place not in pair else 5e-4)  # the CPU rounds inputs
        assert 0 < np.abs(scores - expected).max() < 0.1
    # Each program is compiled once, in another process that could be ended, and then read from its file.
    assert compiled == [{"tokens": n, "slots": 256, "keys": 256 + n} for n in (8, 1)]


@pytest.mark.slow(573)
def test_all_layers_of_a_real_model_on_the_npu_simulator(smollm2_blocks: Bundle, smollm2_float32: Bundle) -> None:
    ids = kit.tokens(24, vocab=smollm2_blocks.vocab)
    reference = kit.in_place(smollm2_float32)
    reference.reset(kit.cache_for(smollm2_float32))
    expected = kit.run_in_parts(reference, ids, [23, 1])
    reference.close()
    npu = loaded(smollm2_blocks, static("npu:qnn"), fixed=FixedShapes(64))
    npu.reset(kit.cache_for(smollm2_blocks))
    assert mean_kl(expected, kit.run_in_parts(npu, ids, [23, 1])) < 0.03
    npu.close()


def test_a_full_cache_is_an_error_before_the_run(tiny: TinyLlm) -> None:
    runner = loaded(tiny.bundle, static("cpu:ort"))
    long = kit.tokens(300)
    with pytest.raises(ContextExceeded, match="cpu:ort was loaded for 256 tokens, and this request has 300"):
        runner.forward(long, 0)
    cache = kit.cache_for(tiny.bundle, 300)
    cache.length = 300
    with pytest.raises(ContextExceeded, match="the KV cache has 300"):
        runner.continue_from(cache)
    # What was refused leaves the runner as it was.
    expected = tiny.oracle.logits(long[:256].tolist())[-1]
    np.testing.assert_allclose(runner.forward(long[:256], 0), expected, rtol=0, atol=EXACT)
    runner.close()


def test_the_number_of_slots(tiny: TinyLlm) -> None:
    slots = [static_loading.slots_for(tiny.bundle, tokens) for tokens in (1, 256, 257, 600, None)]
    assert slots == [256, 256, 512, 700, 700]


def test_what_cannot_be_loaded(tiny: TinyLlm) -> None:
    device = static("cpu:ort")
    with pytest.raises(EngineFailed, match="one sequence at a time, not 2"):
        loaded(tiny.bundle, device, batch=2)
    others = tuple(graph for graph in tiny.bundle.graphs if graph.cache != "static")
    with pytest.raises(EngineFailed, match=r"cpu:ort needs a graph of fixed shapes, and .* without experts"):
        loaded(replace(tiny.bundle, graphs=others), device)


def test_a_session_of_a_device_with_fixed_shapes(tiny: TinyLlm) -> None:
    ids = kit.tokens(40).tolist()
    for pair in ((NPUW, "cpu:ort"), ("cpu:ort", NPUW)):
        first, second = (static(name) if name == NPUW else kit.device(name) for name in pair)
        with LanguageSession(
            tiny.bundle, first, second, threads=1, precision="float32", fixed=FixedShapes(60)
        ) as session:
            answer = session.generate(ids, max_new_tokens=20, ignore_eos=True)
        assert list(answer.token_ids) == tiny.oracle.greedy(ids, 20)
        assert (answer.stats.prefill, answer.stats.decode) == pair
