"""The value of placements by hand, and planted faults."""

from __future__ import annotations

from dataclasses import replace

from tests.scheduler.offload.offload_cases import diamond
from trisect.scheduler.offload.offload_value import device_loads, offload_value, offload_violations
from trisect.scheduler.problem.problem import Problem


def test_loads_by_hand() -> None:
    # npu:0 runs a and b and sends both; npu:1 fetches a and b once each, runs c and d.
    placement = {"a": "npu:0", "b": "npu:0", "c": "npu:1", "d": "npu:1"}
    assert device_loads(diamond(), placement) == {"cpu:0": 0.0, "npu:0": 6 + 1 + 10, "npu:1": 6 + 1 + 10}
    # Two readers on one device: the host's a is fetched once by npu:0.
    placement = {"a": "cpu:0", "b": "npu:0", "c": "npu:0", "d": "npu:0"}
    assert device_loads(diamond(), placement) == {"cpu:0": 100.0, "npu:0": 9 + 1, "npu:1": 0.0}


def test_latency_by_hand() -> None:
    problem = replace(diamond(), objective="latency")
    # a done at 100, then npu:0: fetch 1, b, send 10 = 114; c on the host at 200; npu:1: fetch 20, d 3.
    placement = {"a": "cpu:0", "b": "npu:0", "c": "cpu:0", "d": "npu:1"}
    assert offload_value(problem, placement) == 200 + 20 + 3
    assert offload_value(problem, dict.fromkeys("abcd", "cpu:0")) == 300


def test_planted_faults_are_found() -> None:
    def kinds(problem: Problem, placement: dict[str, str]) -> list[str]:
        return [v.kind for v in offload_violations(problem, placement)]

    good = {"a": "npu:0", "b": "npu:0", "c": "npu:1", "d": "npu:1"}
    assert kinds(diamond(contiguous=True, colocated=(("a", "b"),)), good) == []
    assert kinds(diamond(colocated=(("a", "c"),)), good) == ["apart"]
    assert kinds(diamond(), {**good, "d": "npu:7"}) == ["unknown"]
    assert kinds(diamond(), {"a": "npu:0"}) == ["unplaced"] * 3
    torn = {"a": "npu:0", "b": "npu:1", "c": "npu:1", "d": "npu:0"}
    assert kinds(diamond(), torn) == []
    assert kinds(diamond(contiguous=True), torn) == ["cycle"]
    assert kinds(replace(diamond(), objective="latency"), torn) == ["cycle"]
    assert kinds(diamond(contiguous=True, backward=frozenset("d")), torn) == []
    problem = diamond()
    heavy = replace(problem, rules=replace(problem.rules, sizes_bytes={"a": 3.0, "b": 3.0}))
    assert kinds(heavy, good) == ["memory"]
