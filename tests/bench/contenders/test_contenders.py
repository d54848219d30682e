"""Contenders: which peers run on which devices, and that all compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.bench.comparing.comparisons import write_model
from trisect.bench.contenders import ContenderOptions, make_contender, peer_variants
from trisect.runtime.device import Device
from trisect.runtime.engines import find_devices

CPUS = find_devices("cpu:ort,cpu:openvino")


def test_peers_run_on_the_devices_that_are_chosen() -> None:
    labels = {variant.label: variant for _, variant in peer_variants(CPUS)}
    assert set(labels) == {
        "ONNX Runtime alone", "ONNX Runtime's partitioning", "OpenVINO alone", "OpenVINO HETERO, CPU twice",
    }  # fmt: skip
    assert labels["ONNX Runtime's partitioning"].same_as == "ONNX Runtime alone"
    assert [variant.label for _, variant in peer_variants(CPUS[:1])] == [
        "ONNX Runtime alone", "ONNX Runtime's partitioning",
    ]  # fmt: skip
    npu = Device("npu:x", "npu", "x", "an NPU", native="XExecutionProvider")
    assert "ONNX Runtime's partitioning" in {variant.label for _, variant in peer_variants([*CPUS, npu])}


@pytest.mark.parametrize("system", ["ort_alone", "openvino_alone", "openvino_hetero"])
def test_every_peer_computes_the_same(system: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)}
    settings = next((v.settings for name, v in peer_variants(CPUS) if name == system), {})
    contender = make_contender(system)
    contender.load(path, feeds, ContenderOptions(1, {"batch": 3}, settings))
    reference = make_contender("ort_alone")
    reference.load(path, feeds, ContenderOptions(1, {"batch": 3}, {}))
    np.testing.assert_allclose(contender.run()["y"], reference.run()["y"], rtol=1e-3, atol=1e-5)
    assert contender.events() == []
    assert contender.stream(2) > 0
