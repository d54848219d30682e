"""ONNX's reference evaluator as an engine: used only by name, with the interface of every engine."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.runtime.typed_models import identity, model_of, tensor, values
from trisect.runtime import engines
from trisect.runtime.errors import EngineFailed, InvalidInput, TrisectError

ORT, OPENVINO, REFERENCE = (engines.find_devices(name)[0] for name in ("cpu:ort", "cpu:openvino", "cpu:reference"))


def test_complex_numbers_are_refused_by_onnx_runtime_and_computed_by_the_reference():
    with pytest.raises(EngineFailed, match="complex64"):
        engines.load(identity("complex64"), ORT)
    value = np.array([[1 + 2j]], np.complex64).repeat(3, 0)
    np.testing.assert_array_equal(engines.load(identity("complex64"), REFERENCE).run({"x": value})["y"], value)


def test_the_reference_is_selected_only_by_its_id():
    assert "cpu:reference" not in [device.id for device in engines.discover()]
    assert "cpu:reference" not in [device.id for device in engines.find_devices("cpu")]
    assert not REFERENCE.is_real


def test_the_reference_has_the_interface_of_every_module():
    module = engines.load(identity("float32"), REFERENCE)
    x, y = values("float32"), np.empty((3, 5), np.float32)
    binding = module.bind({"x": x}, {"y": y})
    binding.run()
    np.testing.assert_array_equal(binding.output("y"), x)
    with pytest.raises(InvalidInput):
        module.run({"x": x.astype(np.float64)})
    module.close()
    with pytest.raises(EngineFailed, match="closed"):
        module.run({"x": x})
    with pytest.raises(TrisectError, match="cannot load"):
        engines.load(model_of([helper.make_node("Nonsense", ["x"], ["y"])], [tensor("x", "float32")],
                              [tensor("y", "float32")]).SerializeToString(), REFERENCE)  # fmt: skip
