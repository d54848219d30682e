"""OpenVINO computes only the chosen experts, with compressed weights, in every layer."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from tests.llm.architecture_files import write_architecture
from trisect.llm.importing.model_import import open_model
from trisect.runtime.engines.openvino_parts.expert_translation import ExpertTranslation


@pytest.mark.parametrize(("variant", "kind"), [("qwen3moe", "F32"), ("qwen3moe", "Q4_0"), ("gpt-oss", "MXFP4")])
def test_every_layer_multiplies_by_the_chosen_experts(tmp_path: Path, variant: str, kind: str) -> None:
    kinds = {f"{part}_exps.weight": kind for part in ("gate", "up", "down")}
    path = write_architecture(tmp_path / "a.gguf", variant, kinds=kinds)
    bundle = open_model(path, folder=tmp_path / "bundle")
    core = ov.Core()
    translation = ExpertTranslation(core)
    model = core.read_model(str(tmp_path / "bundle" / "standard.onnx"))
    mapped = translation.take_mapped()
    assert bool(mapped) == (kind == "Q4_0")
    assert not translation.take_mapped()
    constants = [node.get_element_type().to_string() for node in model.get_ops() if node.get_type_name() == "Constant"]
    assert constants.count("u4") == (2 * bundle.layers if kind == "Q4_0" else 0)
    gc.collect()
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kernels = [str(node.get_rt_info()["layerType"].astype(str)) for node in compiled.get_runtime_model().get_ops()]
    assert kernels.count("GatherMatmul") == 2 * bundle.layers
    assert "ScatterElementsUpdate" not in kernels
    past = {name: np.zeros(layer.shape(1, 0), np.float32) for layer in bundle.kv_layers for name in layer.names}
    tokens = {"input_ids": np.array([[3, 9, 4]]), "position_ids": np.arange(3)[None]}
    assert np.isfinite(compiled(tokens | past)["logits"]).all()
