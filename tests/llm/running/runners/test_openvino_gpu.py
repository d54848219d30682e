"""What OpenVINO's GPU plugin is given, computed by its CPU plugin under a GPU's name: there is no GPU here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.llm import tiny_llms as kit
from tests.llm.tiny_llms import TinyLlm, TinyLlms
from trisect.llm.running.runners.runner import Runner
from trisect.llm.running.runners.runner_loading import load_runner
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.openvino_parts.attention_fusion import BEAM_INPUT

IDS = kit.tokens(20)
GpuModels = list[tuple[set[str], dict[str, Any]]]


@pytest.fixture
def gpu() -> Device:
    return replace(kit.device("cpu:openvino"), id="gpu:openvino", kind="gpu")


@pytest.fixture
def models(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> GpuModels:
    """Inputs and properties of each model that is compiled for the GPU."""
    engine = engines.engine_for(gpu)
    load, compile_, seen = engines.load, engine._compiled, []  # type: ignore[attr-defined]

    def listed(model: Any, device: Device, options: Any = None) -> Any:
        return engine.load(model, device, options) if device.id == gpu.id else load(model, device, options)

    def record(model: Any, device: Device, properties: dict[str, Any]) -> Any:
        if device.kind == "gpu":
            seen.append(({name for port in model.inputs for name in port.get_names()}, properties))
        return compile_(model, device, properties)

    monkeypatch.setattr(engines, "load", listed)
    monkeypatch.setattr(engine, "_compiled", record)
    return seen


@pytest.fixture(scope="module")
def tiny(tiny_llms: TinyLlms) -> TinyLlm:
    return tiny_llms.get("llama", "F32", "float32")


def on_gpu(bundle: Any, device: Device, *, exports_cache: bool = False, precision: str = "float32") -> Runner:
    return load_runner(bundle, device, threads=1, precision=precision, decodes=True, exports_cache=exports_cache)


@pytest.mark.parametrize("precision", ["float32", "fast"])
def test_attention_is_fused_and_the_cache_is_not_compressed(
    tiny: TinyLlm, gpu: Device, models: GpuModels, precision: str
) -> None:
    runner = on_gpu(tiny.bundle, gpu, precision=precision)
    ((inputs, properties),) = models
    assert BEAM_INPUT in inputs
    assert not any(name.startswith("past_key_values.") for name in inputs)
    assert properties["KV_CACHE_PRECISION"] == {"float32": "f32", "fast": "f16"}[precision]
    assert properties["INFERENCE_PRECISION_HINT"] == properties["KV_CACHE_PRECISION"]
    runner.reset(kit.cache_for(tiny.bundle))
    scores = kit.run_in_parts(runner, IDS, (15, 1, 4))
    expected = tiny.oracle.logits(IDS.tolist())[[14, 15, 19]]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4 if precision == "float32" else 0.05)
    runner.close()


@pytest.mark.parametrize("gpu_first", [True, False])
def test_caches_go_both_ways(tiny: TinyLlm, gpu: Device, models: GpuModels, gpu_first: bool) -> None:
    here: Callable[..., Runner] = functools.partial(on_gpu, device=gpu)
    makers = (here, kit.in_place) if gpu_first else (kit.in_place, here)
    source, target, cache = (
        makers[0](tiny.bundle, exports_cache=True),
        makers[1](tiny.bundle),
        kit.cache_for(tiny.bundle),
    )
    source.reset(cache)
    source.forward(IDS[:13], 0)
    target.continue_from(cache)
    scores = np.stack([target.forward(IDS[at : at + 1], at).copy() for at in range(13, 20)])
    np.testing.assert_allclose(scores, tiny.oracle.logits(IDS.tolist())[13:], rtol=0, atol=1e-4)
    assert len(models) == 1
    for runner in (source, target):
        runner.close()
