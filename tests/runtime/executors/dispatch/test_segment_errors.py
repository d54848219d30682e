"""An error says in which segment it arose, and on which device of the plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.runtime.executors.dispatch.python_hosts import plan_of
from trisect.runtime.errors import EngineFailed, EngineMissing, OutOfMemory
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
