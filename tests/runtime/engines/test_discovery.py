"""Engines are discovered by their module or entry point, and state what they can do."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import EngineCapabilities
from trisect.runtime.errors import (
    EngineMissing,
)

DEVICES = [device for device in engines.discover() if device.id in ("cpu:ort", "cpu:openvino")]


def by_id(name: str) -> Device:
    return next(device for device in DEVICES if device.id == name)


def test_onnx_runtime_and_openvino_are_discovered():
    assert {"cpu:ort", "cpu:openvino"} <= {device.id for device in DEVICES}
    assert all(device.engine_version and device.name for device in DEVICES)


def test_an_engine_without_its_package_is_unavailable_with_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "trisect.runtime.engines.openvino", raising=False)
    engines._inventory.cache_clear()
    try:
        result = [device.id for device in engines.discover()]
        assert "cpu:ort" in result
        assert "cpu:openvino" not in result
        assert "pip install openvino" in engines.unavailable()["openvino"]
        with pytest.raises(EngineMissing, match="pip install openvino"):
            engines.engine_for(by_id("cpu:openvino"))
        with pytest.raises(EngineMissing, match=r"'openvino' cannot be used here: .*pip install openvino"):
            engines.find_devices("cpu:ort,cpu:openvino")
    finally:
        monkeypatch.undo()
        engines._inventory.cache_clear()


def test_a_broken_driver_disables_no_other_engine(monkeypatch):
    class BrokenEngine:
        def devices(self):
            raise OSError("driver too old\nand more")

    point = SimpleNamespace(name="broken", load=lambda: BrokenEngine)
    monkeypatch.setattr(engines, "entry_points", lambda group: [point] if group == "trisect.engines" else [])
    engines._inventory.cache_clear()
    try:
        assert engines.unavailable()["broken"] == "OSError: driver too old"
        assert {device.id for device in DEVICES} <= {device.id for device in engines.discover()}
    finally:
        monkeypatch.undo()
        engines._inventory.cache_clear()


def test_each_engine_module_defines_one_engine_class_with_a_name_of_its_own():
    classes = {name: load_class().__name__ for name, load_class in engines._engine_classes()}
    files = {path.stem for path in Path(engines.__path__[0]).glob("*.py")} - {"__init__", "base"}
    assert files <= set(classes)
    assert len(classes) == len(set(classes.values()))


def test_engines_state_what_they_can_do():
    ort, openvino = engines.capabilities(by_id("cpu:ort")), engines.capabilities(by_id("cpu:openvino"))
    assert (ort.external_data_folder, ort.internal_state, ort.own_memory) == (True, False, False)
    assert (openvino.external_data_folder, openvino.internal_state, openvino.vendor) == (False, True, "intel")
    assert engines.capabilities(Device("npu:unknown", "npu", "unknown", "x")) == EngineCapabilities()


def test_a_third_party_engine_is_found_by_its_entry_point(monkeypatch):
    class ThirdPartyEngine:
        name = "mine"
        package = "mine"

        def devices(self):
            return [Device("npu:mine", "npu", "mine", "toy")]

    point = SimpleNamespace(name="mine", load=lambda: ThirdPartyEngine)
    monkeypatch.setattr(engines, "entry_points", lambda group: [point])
    engines._inventory.cache_clear()
    try:
        assert "npu:mine" in [device.id for device in engines.discover()]
        assert engines.engine_for(Device("npu:mine", "npu", "mine", "toy")).name == "mine"
    finally:
        monkeypatch.undo()
        engines._inventory.cache_clear()
