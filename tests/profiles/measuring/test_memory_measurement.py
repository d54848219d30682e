"""Models for measuring memory have the weights and tensors that they claim."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from trisect.profiles.measuring.memory_measurement import (
    has_own_memory,
    measure_memory,
    memory_models,
)
from trisect.runtime.device import Device
from trisect.runtime.engines import find_devices
from trisect.runtime.engines.base import LoadOptions

ORT = find_devices("cpu:ort")[0]


@pytest.mark.parametrize("model", memory_models(), ids=lambda model: model.name)
def test_models_are_as_large_as_they_claim(model, tmp_path):
    path = tmp_path / "m.onnx"
    model.write(path)
    onnx.checker.check_model(path, full_check=True)
    beside = path.with_name("m.weights")
    assert (beside.stat().st_size if beside.exists() else 0) == model.weights_bytes
    assert path.stat().st_size < 10_000
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    sizes = {v.name: 4 * prod(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
    live = max(sum(sizes.get(name, 0) for name in (*node.input, *node.output)) for node in inferred.node)
    assert model.tensors_bytes == live or (model.name == "tiny" and live < 100)


def test_the_model_of_large_tensors_computes_them(tmp_path):
    model = memory_models()[-1]
    model.write(tmp_path / "m.onnx")
    (result,) = ReferenceEvaluator(onnx.load(tmp_path / "m.onnx")).run(None, {"x": np.ones(model.shape, np.float32)})
    assert result == pytest.approx(model.shape[-1], rel=1e-3)  # the shares of each column add up to one


def test_a_process_grows_by_at_least_the_weights_or_tensors():
    points = {point.case: point for point in measure_memory(ORT, LoadOptions())}
    for model in memory_models()[1:]:
        assert points[model.name].resident_bytes > 0.8 * max(model.weights_bytes, model.tensors_bytes)
    assert points["tiny"].resident_bytes < 0.1 * points["weights of products"].resident_bytes


def test_devices_with_memory_of_their_own_are_not_measured():
    assert not has_own_memory(ORT)
    assert not has_own_memory(Device("npu:qnn", "npu", "qnn", "", reality="simulated"))
    assert has_own_memory(Device("gpu:cuda", "gpu", "cuda", ""))
    assert has_own_memory(Device("npu:null", "npu", "null", "", reality="simulated"))
