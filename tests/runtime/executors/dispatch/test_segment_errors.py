"""An error says in which segment it arose, and on which device of the plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.runtime.executors.dispatch.python_hosts import plan_of
from trisect.runtime.engines import discover
from trisect.runtime.errors import EngineFailed, EngineMissing, OutOfMemory, UnknownDevice
from trisect.runtime.executors.dispatch.segment_errors import describe_segment, in_segment, loading_segment

SEGMENT = plan_of([("edge1/cpu:ort", ["x"], ["y"])], ["y"]).segments[0]


@pytest.mark.parametrize(("nodes", "text"), [
    ((), "no nodes"), (("Add_1",), "node 'Add_1'"), (("Add_1", "Mul_2", "Neg_3"), "nodes 'Add_1' to 'Neg_3'"),
])  # fmt: skip
def test_a_segment_is_described_by_its_nodes(nodes, text):
    assert describe_segment(replace(SEGMENT, nodes=nodes)) == f"segment 0 on edge1/cpu:ort ({text})"


def test_an_error_has_the_plans_device_and_keeps_its_cause():
    error = EngineFailed("cpu:ort could not run: no kernel", remedy="place it elsewhere", device="cpu:ort", reason="no")
    named = in_segment(SEGMENT, error)
    expected = "segment 0 on edge1/cpu:ort (node 'node 0'): cpu:ort could not run: no kernel; place it elsewhere"
    assert str(named) == expected
    assert (named.device, named.reason) == ("edge1/cpu:ort", "no")
    assert (error.device, error.message) == ("cpu:ort", "cpu:ort could not run: no kernel")


@pytest.mark.parametrize("kind", [EngineMissing, OutOfMemory])
def test_errors_of_every_kind_are_named(kind):
    with pytest.raises(kind, match="segment 0 on edge1"), loading_segment(SEGMENT):
        raise kind("no memory")


def test_a_device_that_this_machine_does_not_have_is_the_reason_of_a_failure_to_load():
    here = discover()[0]
    absent = replace(here, id="npu:absent", name="Hexagon")
    error = EngineFailed("npu:absent cannot load m.onnx: no backend")
    message = r"the plan was made for npu:absent \(Hexagon\), which this machine does not have"
    with pytest.raises(UnknownDevice, match=message) as caught, loading_segment(SEGMENT, absent):
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.remedy == f"split the model again for {', '.join(device.id for device in discover())}"
    with pytest.raises(EngineFailed, match="no backend"), loading_segment(SEGMENT, here):
        raise error
    with pytest.raises(EngineFailed, match="no backend"), loading_segment(SEGMENT):
        raise error
    simulated = replace(absent, reality="simulated")
    with pytest.raises(EngineFailed, match="no backend"), loading_segment(SEGMENT, simulated):
        raise error
