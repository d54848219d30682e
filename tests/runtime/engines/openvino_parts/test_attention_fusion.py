"""Attention is rewritten for the plugin's kernel where it is causal over a cache, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import TensorProto, helper

from tests.llm import tiny_llms as kit
from tests.llm.tiny_llms import TinyLlms
from trisect.runtime.engines import discover, load
from trisect.runtime.engines import openvino as engine
from trisect.runtime.engines.base import LoadOptions, StatefulModule
from trisect.runtime.engines.openvino_parts.attention_fusion import BEAM_INPUT, fuse_attention

STATE = {"past_k": "present_k", "past_v": "present_v"}
DIM = 8
PARTS = (5, 1, 1, 3)


def attention(
    heads: int = 4,
    kv_heads: int = 2,
    *,
    causal: int = 1,
    mask: bool = False,
    scale: float | None = 0.3,
    batch: int | str = 1,
) -> onnx.ModelProto:
    """One attention with a past."""
    float_, shape = TensorProto.FLOAT, helper.make_tensor_value_info
    inputs = [shape("q", float_, [batch, heads, "n", DIM])]
    inputs += [shape(name, float_, [batch, kv_heads, "n", DIM]) for name in ("k", "v")]
    inputs += [shape("mask", float_, ["n", "total"])] if mask else []
    inputs += [shape(name, float_, [batch, kv_heads, "past", DIM]) for name in STATE]
    outputs = [shape("y", float_, [batch, heads, "n", DIM])]
    outputs += [shape(name, float_, [batch, kv_heads, "total", DIM]) for name in STATE.values()]
    attributes = {"is_causal": causal} | ({} if scale is None else {"scale": scale})
    names = ["q", "k", "v", "mask" if mask else "", *STATE]
    node = helper.make_node("Attention", names, [value.name for value in outputs], "attention", **attributes)
    graph = helper.make_graph([node], "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def expected(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    """Causal attention over everything at once, in float64."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    scores = np.einsum("bhqd,bhkd->bhqk", q, k.repeat(group, axis=1)) * scale
    scores = np.where(np.tri(q.shape[2], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("bhqk,bhkd->bhqd", weights, v.repeat(group, axis=1))


def random(heads: int, kv_heads: int, batch: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(heads)
    sizes = [(batch, n, sum(PARTS), DIM) for n in (heads, kv_heads, kv_heads)]
    q, k, v = (generator.normal(0, 2, size).astype(np.float32) for size in sizes)
    return q, k, v


def types(model: ov.Model) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


def read(model: onnx.ModelProto) -> ov.Model:
    return ov.Core().read_model(model.SerializeToString())


@pytest.mark.parametrize("scale", [None, 0.3, 1.0])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "batch"), [(4, 4, 1), (4, 2, 1), (6, 1, 1), (3, 3, 1), (4, 2, 2), (3, 3, 5)]
)
def test_fused_attention_equals_numpy(heads: int, kv_heads: int, batch: int, scale: float | None) -> None:
    model = attention(heads, kv_heads, scale=scale, batch=batch)
    assert fuse_attention(read(model), STATE) == batch
    device = next(device for device in discover() if device.id == "cpu:openvino")
    module = load(model.SerializeToString(), device, LoadOptions(threads=1, state=STATE))
    assert isinstance(module, StatefulModule)
    assert [spec.name for spec in module.inputs] == ["q", "k", "v"]
    assert [spec.name for spec in module.outputs] == ["y"]
    q, k, v = random(heads, kv_heads, batch)
    reference = expected(q, k, v, DIM**-0.5 if scale is None else scale)
    for _ in range(2):
        start = 0
        for part in PARTS:
            at = slice(start, start + part)
            outputs = module.run({"q": q[:, :, at], "k": k[:, :, at], "v": v[:, :, at]})["y"]
            np.testing.assert_allclose(outputs, reference[:, :, at], rtol=0, atol=1e-5)
            start += part
        state = module.get_state()
        np.testing.assert_array_equal(state["past_k"], k)
        np.testing.assert_array_equal(state["past_v"], v)
        module.reset_state()
    module.set_state({"past_k": k[:, :, :7], "past_v": v[:, :, :7]})
    outputs = module.run({"q": q[:, :, 7:], "k": k[:, :, 7:], "v": v[:, :, 7:]})["y"]
    np.testing.assert_allclose(outputs, reference[:, :, 7:], rtol=0, atol=1e-5)
    module.close()


@pytest.mark.parametrize(
    ("model", "state"),
    [
        (attention(causal=0), STATE),
        (attention(mask=True, causal=0), STATE),
        (attention(mask=True, causal=1), STATE),
        (attention(batch="b"), STATE),
        (attention(), {"past_k": "present_k"}),
        (attention(), STATE | {"q": "y"}),
    ],
    ids=["not causal", "mask", "mask and causal", "any batch", "half the state", "too much state"],
)
def test_other_attention_is_not_rewritten(model: onnx.ModelProto, state: Mapping[str, str]) -> None:
    fused = read(model)
    before = types(fused)
    assert not fuse_attention(fused, state)
    assert types(fused) == before
    assert not any(BEAM_INPUT in port.names for port in fused.inputs)


@pytest.mark.parametrize("causal", [0, 1])
def test_a_mask_that_is_an_input_is_applied(causal: int) -> None:
    """Padding must be applied: attention that is not fused is computed unchanged, with internal state."""
    model = attention(mask=True, causal=causal, scale=0.3)
    device = next(device for device in discover() if device.id == "cpu:openvino")
    module = load(model.SerializeToString(), device, LoadOptions(threads=1, state=STATE))
    q, k, v = random(4, 2)
    mask = np.where(np.tri(10, dtype=bool), 0, -1e9).astype(np.float32)
    mask[:, 2] = -1e9
    mask[2, 2] = 0
    outputs = module.run({"q": q, "k": k, "v": v, "mask": mask})["y"]
    plain = expected(q, k, v, 0.3)
    assert np.abs(outputs[:, :, :2] - plain[:, :, :2]).max() < 1e-5
    assert np.abs(outputs[:, :, 3:] - plain[:, :, 3:]).max() > 1e-2


@pytest.mark.parametrize("arch", ["llama", "qwen3"])
def test_every_attention_of_a_decoder_is_fused(tiny_llms: TinyLlms, arch: str) -> None:
    bundle = tiny_llms.get(arch, "Q4_1").bundle
    model = ov.Core().read_model(str(Path(bundle.folder) / "standard.onnx"))
    names = [f"past_key_values.{i}.{part}" for i in range(2) for part in ("key", "value")]
    assert fuse_attention(model, {name: name.replace("past_key_values", "present") for name in names})
    result = types(model)
    assert result.count("ScaledDotProductAttention") == 2
    assert result.count("ReadValue") == result.count("Assign") == 4
    assert "Tile" not in result
    inputs = {name for port in model.inputs for name in port.names}
    assert inputs & {"input_ids", "position_ids", BEAM_INPUT, *names} == {"input_ids", "position_ids", BEAM_INPUT}
    outputs = {name for port in model.outputs for name in port.names}
    assert not any(name.startswith("present.") for name in outputs)
    assert {"fresh.0.key", "fresh.1.value"} <= outputs


def test_the_plugin_uses_its_fused_kernel(tiny_llms: TinyLlms) -> None:
    """The compiled graph contains the fused kernel with its cache, and no separate product of queries and keys."""
    bundle = tiny_llms.get("llama", "F32", "float32").bundle
    model = ov.Core().read_model(str(Path(bundle.folder) / "standard.onnx"))
    names = [f"past_key_values.{i}.{part}" for i in range(2) for part in ("key", "value")]
    fuse_attention(model, {name: name.replace("past_key_values", "present") for name in names})
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": "1"})
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ordered_ops()]
    assert kinds.count("ScaledDotProductAttention") == 2
    assert "Softmax" not in kinds


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_results_are_the_same_without_fusion(tiny_llms: TinyLlms, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tiny_llms.get(arch, "F32", "float32")
    monkeypatch.setattr(engine, "fuse_attention", lambda model, state: False)
    runner = kit.stateful(tiny.bundle, exports_cache=True)
    ids = kit.tokens(20, seed=4)
    parts = (12, 1, 6, 1)
    cache = kit.cache_for(tiny.bundle)
    runner.reset(cache)
    outputs = kit.run_in_parts(runner, ids, parts)
    np.testing.assert_allclose(outputs, tiny.oracle.logits(ids.tolist())[kit.ends(parts)], rtol=0, atol=1e-4)
    other = kit.in_place(tiny.bundle)
    other.continue_from(cache)
    again = other.forward(ids[:1], 20)
    np.testing.assert_allclose(again, tiny.oracle.logits([*ids.tolist(), int(ids[0])])[-1], rtol=0, atol=1e-4)
