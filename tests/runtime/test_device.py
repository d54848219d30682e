"""Devices are selected by id, kind, node or auto."""

from __future__ import annotations

import pytest

from trisect.runtime.device import Device, select
from trisect.runtime.errors import UnknownDevice

HERE = [
    Device("cpu:ort", "cpu", "ort", "x"),
    Device("cpu:openvino", "cpu", "openvino", "x"),
    Device("npu:null", "npu", "null", "x", reality="simulated"),
    Device("edge1/npu:qnn", "npu", "qnn", "x"),
]


@pytest.mark.parametrize(
    ("selector", "ids"),
    [
        ("auto", ["cpu:ort", "cpu:openvino", "npu:null", "edge1/npu:qnn"]),
        ("npu, cpu:ort,npu", ["npu:null", "edge1/npu:qnn", "cpu:ort"]),
        (["cpu:openvino", "cpu"], ["cpu:openvino", "cpu:ort"]),
        ("edge1", ["edge1/npu:qnn"]),
        ("edge1/npu", ["edge1/npu:qnn"]),
        ("npu:qnn", ["edge1/npu:qnn"]),
    ],
)
def test_the_order_of_the_selector_is_preserved(selector: str | list[str], ids: list[str]) -> None:
    assert [device.id for device in select(selector, HERE)] == ids


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("cpu:otr", "no device 'cpu:otr' here; did you mean cpu:ort"),
        ("tpu", "there are: cpu:ort, cpu:openvino, npu:null, edge1/npu:qnn"),
        (" , ", "no device named; give ids such as cpu:ort, or auto"),
    ],
)
def test_an_unknown_device_is_refused_with_the_available_ones(selector: str, message: str) -> None:
    with pytest.raises(UnknownDevice, match=message):
        select(selector, HERE)


def test_a_device_knows_its_node_and_whether_it_is_hardware() -> None:
    assert [(device.node, device.local_id) for device in HERE[2:]] == [("", "npu:null"), ("edge1", "npu:qnn")]
    assert [device.is_real for device in HERE] == [True, True, False, True]
