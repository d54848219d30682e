"""A plan's graph tells what waits for what, and a plan that could never finish is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.runtime.executors.dispatch.python_hosts import plan_of
from trisect.runtime.errors import InvalidPlan
from trisect.runtime.executors.dispatch.segment_graph import SegmentGraph


def test_the_graph_of_a_diamond():
    plan = plan_of(
        [("a", ["x"], ["s", "t"]), ("a", ["s"], ["u"]), ("b", ["t", "x"], ["v"]), ("b", ["u", "v"], ["y"])], ["y", "s"]
    )
    graph = SegmentGraph.of(plan)
    assert {name: segment.index for name, segment in graph.producers.items()} == {
        "s": 0, "t": 0, "u": 1, "v": 2, "y": 3,
    }  # fmt: skip
    assert graph.consumers == {"x": (0, 2), "s": (1,), "t": (2,), "u": (3,), "v": (3,)}
    assert graph.use_counts == {"x": 2, "s": 2, "t": 1, "u": 1, "v": 1, "y": 1}
    assert graph.in_degrees == {0: 0, 1: 1, 2: 1, 3: 2}
    assert graph.sources == (0,)
    assert graph.outputs == ("y", "s")


@pytest.mark.parametrize(("segments", "outputs", "message"), [
    ([("a", ["t"], ["s"]), ("a", ["s"], ["t"])], ["s"], "segments 0, 1 wait for each other"),
    ([("a", ["x"], ["s"]), ("a", ["t", "s"], ["t"])], ["s"], "segments 1 wait for each other"),
    ([("a", ["z"], ["s"])], ["s"], "segment 0 reads 'z', which no segment computes"),
    ([("a", ["x"], ["s"])], ["y"], "no segment computes the output 'y'"),
])  # fmt: skip
def test_plans_that_could_never_finish(segments, outputs, message):
    with pytest.raises(InvalidPlan, match=message):
        SegmentGraph.of(plan_of(segments, outputs))


def test_a_device_that_the_plan_does_not_list():
    plan = plan_of([("a", ["x"], ["s"]), ("b", ["s"], ["y"])], ["y"])
    with pytest.raises(InvalidPlan, match="segment 1 is on b, which the plan does not list"):
        SegmentGraph.of(replace(plan, devices=plan.devices[:1]))
