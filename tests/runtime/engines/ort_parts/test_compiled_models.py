"""What a provider has compiled is loaded the next time, and gives the same values; a damaged file is compiled again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trisect.runtime import engines
from trisect.runtime.engines.base import LoadOptions


def test_a_model_is_compiled_once_for_each_size(model: Any, tmp_path: Path) -> None:
    device = next((device for device in engines.discover() if device.id == "npu:qnn"), None)
    if device is None:
        pytest.skip(f"npu:qnn: {engines.unavailable().get('qnn', 'not on this machine')}")
    path = tmp_path / "m.onnx"
    path.write_bytes(model("g (float[n,8] x) => (float[n,8] y) { y=Sigmoid(x) }"))
    folder = tmp_path / "compiled"
    results = []

    def run(rows: int) -> None:
        module = engines.load(path, device, LoadOptions(shapes={"n": rows}, compiled_folder=str(folder)))
        results.append(module.run({"x": np.ones((rows, 8), np.float32)})["y"])
        module.close()

    run(2)
    (first,) = folder.iterdir()
    times = {file.name: file.stat().st_mtime_ns for file in first.iterdir()}
    run(2)
    assert {file.name: file.stat().st_mtime_ns for file in first.iterdir()} == times
    np.testing.assert_array_equal(results[0], results[1])
    run(3)
    assert len(list(folder.iterdir())) == 2
    (first / "model.onnx").write_bytes(b"damaged")
    run(2)
    np.testing.assert_array_equal(results[0], results[3])
    assert len(list(folder.iterdir())) == 2
