"""The shipped table holds results of the installed engines, and no other version of an engine uses it."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from trisect.profiles.capabilities import shipped_results as module
from trisect.profiles.capabilities.shipped_results import PATH, ResultsTable, make_table, shipped_result
from trisect.profiles.capabilities.value_trials import EQUAL, UNDECIDED, TrialResult
from trisect.runtime.engines import find_devices

ORT, OPENVINO = find_devices("cpu:ort,cpu:openvino")
DIFFERENT, FAILED = TrialResult("different", "'y' is off by 1"), TrialResult("failed", "no kernel")


def test_a_table_gives_back_what_was_measured(tmp_path, monkeypatch):
    results = [("Add 01", EQUAL), ("Add 02", EQUAL), ("Add 03", DIFFERENT), ("Loop 04", UNDECIDED), ("Add 05", FAILED)]
    table = make_table("today", [(key, OPENVINO, result) for key, result in results])
    path = tmp_path / "table.json"
    path.write_bytes(msgspec.json.encode(table))
    monkeypatch.setattr(module, "PATH", path)
    module.clear_cache()
    try:
        assert [shipped_result(key, OPENVINO) for key, _ in results] == [result for _, result in results]
        assert shipped_result("Add 06", OPENVINO) is None
        assert shipped_result("Add 01", ORT) is None
        assert shipped_result("Add 01", replace(OPENVINO, engine_version="1.0")) is None
        assert shipped_result("Add 01", replace(OPENVINO, kind="gpu")) is None
    finally:
        module.clear_cache()


def test_the_shipped_table_is_of_the_installed_engines():
    table = msgspec.json.decode(PATH.read_bytes(), type=ResultsTable)
    for device in (ORT, OPENVINO):
        results = table.engines[f"{device.engine} {device.engine_version}"]
        assert {"Conv", "MatMul", "Add", "Relu", "Softmax"} <= results.equal.keys()
    assert "Resize" in table.engines[f"{OPENVINO.engine} {OPENVINO.engine_version}"].different
