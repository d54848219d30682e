"""Measuring must run the work it says it runs, keep what is known, and stop when its budget is spent."""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import prod
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from trisect.profiles import measure as measuring
from trisect.profiles.cases import cases, tiny_chain
from trisect.profiles.costs import ProfileCosts
from trisect.profiles.features import OpClass, OpFeatures
from trisect.profiles.links import SIZES_BYTES, measure_link
from trisect.profiles.machine import read_bandwidth_bytes_per_s
from trisect.runtime.engines import discover, load
from trisect.runtime.errors import EngineFailed

ORT, OPENVINO = (next(d for d in discover() if d.id == name) for name in ("cpu:ort", "cpu:openvino"))
CASES = cases()
SMALL = [case for case in CASES if case.size_bytes * case.repeats < 3e6]


def test_every_class_with_work_of_its_own_is_covered_early():
    wanted = set(OpClass) - {OpClass.SHAPE, OpClass.CONTROL_FLOW}
    assert {case.op_class for case in CASES} == wanted
    assert {case.op_class for case in CASES[: len(wanted)]} == wanted
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.name.startswith(f"{case.op_class.value}:") for case in CASES)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_cases_are_sound_models_of_the_shapes_they_claim(case):
    model = onnx.load_from_string(case.build())
    onnx.checker.check_model(model, full_check=True)
    out = ReferenceEvaluator(model).run(None, {"x": case.feed()})[0]
    assert out.shape == case.output_shape
    assert np.isfinite(out).all()
    assert np.abs(out).max() < 1e3
    for device in (ORT, OPENVINO):
        np.testing.assert_allclose(load(case.build(), device).run({"x": case.feed()})["y"], out, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "case", [c for c in SMALL if c.op_class in (OpClass.MATMUL, OpClass.CONV)], ids=lambda c: c.name
)
def test_flops_and_bytes_are_those_of_the_model(case):
    """Counted again from the weights: two operations for each weight and each place it is applied to."""
    graph = onnx.load_from_string(case.build()).graph
    weight = tuple(graph.initializer[0].dims)
    places = case.output_shape[0] if case.op_class is OpClass.MATMUL else prod(case.output_shape[2:])
    assert case.flops == 2 * places * prod(weight)
    assert case.size_bytes == 4 * (prod(case.shape) + prod(weight) + prod(case.output_shape))


def test_memory_bound_cases_outgrow_the_caches():
    largest = max((case for case in CASES if case.op_class is OpClass.MATVEC), key=lambda case: case.size_bytes)
    assert largest.repeats * largest.size_bytes >= 128e6


def test_tiny_chains_have_as_many_nodes_as_they_say():
    model = onnx.load_from_string(tiny_chain(33).build())
    assert len(model.graph.node) == 33
    onnx.checker.check_model(model, full_check=True)


@pytest.fixture
def quick(monkeypatch):
    """Only the small cases, and no tour of the memory."""
    chosen = [case for case in SMALL if case.name in ("matmul:64x256x256", "norm:layer:8x256", "elementwise:add:4096")]
    assert len(chosen) == 3
    monkeypatch.setattr(measuring, "cases", lambda: chosen)
    monkeypatch.setattr(measuring, "read_bandwidth_bytes_per_s", lambda: 1e10)
    monkeypatch.setattr(measuring, "peak_flops", lambda device, options: 1e11)
    return chosen


def test_a_measured_profile_answers_a_planner(quick):
    steps = []
    profile = measuring.measure([ORT, OPENVINO], progress=lambda *step: steps.append(step))
    assert list(profile.devices) == ["cpu:ort", "cpu:openvino"]
    assert profile.provenance.source == "measured"
    assert profile.provenance.engines["ort"] == ORT.engine_version
    assert {(link.source, link.target) for link in profile.links} == set(itertools.permutations(profile.devices, 2))
    assert [done for done, _, _ in steps] == list(range(9))
    assert steps[-1][:2] == (8, 8)
    costs = ProfileCosts(profile)
    for name in profile.devices:
        small, large = (
            costs.node_time_s(OpFeatures("MatMul", OpClass.MATMUL, f, 10**5, 10**5, 0, "float32"), name)
            for f in (1e6, 1e12)
        )
        assert 0 < small < large
        assert costs.call_overhead_s(name) > 0
    assert costs.transfer_time_s(10**6, "cpu:ort", "cpu:openvino") > 0


def test_what_is_known_is_not_measured_again(quick, monkeypatch):
    first = measuring.measure([ORT])
    ran = []
    bound = measuring._bound
    monkeypatch.setattr(measuring, "_bound", lambda case, *rest: (ran.append(case.name), bound(case, *rest))[1])
    again = measuring.measure([ORT], known=first)
    assert again.devices == first.devices
    assert ran == ["tiny:1"]
    more = measuring.measure([OPENVINO], known=first)
    assert set(more.devices) == {"cpu:ort", "cpu:openvino"}
    assert more.devices["cpu:ort"] == first.devices["cpu:ort"]
    updated = measuring.measure([replace(ORT, engine_version="2")], known=first)
    assert updated.devices["cpu:ort"].engine_version == "2"
    ran.clear()
    measuring.measure([ORT], known=first, precision="fast")
    assert "matmul:64x256x256" in ran


def test_a_spent_budget_leaves_cases_for_the_next_time(quick):
    first = measuring.measure([ORT], budget_s=0.0)
    assert first.devices["cpu:ort"].points == ()
    assert first.devices["cpu:ort"].call_overhead_s > 0
    second = measuring.measure([ORT], known=first)
    assert [point.case for point in second.devices["cpu:ort"].points] == [case.name for case in quick]
    assert second.devices["cpu:ort"].call_overhead_s == first.devices["cpu:ort"].call_overhead_s


def test_an_operator_that_a_device_refuses_is_noted(quick, monkeypatch):
    bound = measuring._bound

    def refusing(case, device, options):
        if case.op_class is OpClass.NORM:
            raise EngineFailed("no kernel for LayerNormalization")
        return bound(case, device, options)

    monkeypatch.setattr(measuring, "_bound", refusing)
    profile = measuring.measure([ORT])
    assert profile.devices["cpu:ort"].refused == {"norm:layer:8x256": "no kernel for LayerNormalization"}
    norm = OpFeatures("Softmax", OpClass.NORM, 1e5, 10**5, 10**5, 0, "float32")
    assert ProfileCosts(profile).node_time_s(norm, "cpu:ort") == float("inf")


def test_time_calls_takes_the_median_and_the_spread(monkeypatch):
    durations_s = [5.0, 1.0, 3.0, 2.0, 4.0]
    reads = [0.0, *itertools.chain.from_iterable((10.0 * i, 10.0 * i + d) for i, d in enumerate(durations_s)), 99.0]
    clock = iter(reads)
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    calls = []
    timing = measuring.time_calls(lambda: calls.append(1), lasting_s=0.0, fewest=5)
    assert len(calls) == 7  # two of them to warm up
    assert timing.median_s == 3.0
    assert timing.spread == pytest.approx((4.0 - 2.0) / 3.0)


def test_links_are_measured_at_every_size():
    link = measure_link(ORT, OPENVINO)
    assert (link.source, link.target) == ("cpu:ort", "cpu:openvino")
    assert tuple(point.size_bytes for point in link.points) == SIZES_BYTES
    assert all(point.time_s > 0 for point in link.points)


def test_read_bandwidth_is_a_rate(monkeypatch):
    monkeypatch.setattr("trisect.profiles.machine._ARRAY_BYTES", 1 << 20)
    assert read_bandwidth_bytes_per_s(threads=1) > 1e6
