"""Variants of a case are valid models whose outputs are the original's, within their precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from trisect.profiles.costmodel.op_features import OpClass, OpFeatures
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.profiles.measuring import device_measurement as measuring
from trisect.profiles.measuring.case_variants import case_variants
from trisect.profiles.measuring.operator_cases import small_cases, standard_cases
from trisect.runtime import engines
from trisect.runtime.engines import find_devices, load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import EngineFailed

ORT = find_devices("cpu:ort")[0]
SMALL = small_cases()
FORMS = [(case, form) for case in SMALL for form in case_variants(case)]


@pytest.mark.parametrize(("case", "form"), FORMS, ids=lambda case: case.name)
def test_a_variant_computes_the_same_as_the_case(case, form):
    whole = ReferenceEvaluator(onnx.load_from_string(case.build())).run(None, {"x": case.feed()})[0]
    model = onnx.load_from_string(form.build())
    onnx.checker.check_model(model, full_check=True)
    (result,) = load(form.build(), ORT).run(form.feeds()).values()
    assert result.dtype == (np.float16 if "float16" in form.name else np.float32)
    assert result.ndim == (4 if "rank 4" in form.name else whole.ndim)
    error = np.std(result.reshape(whole.shape).astype(np.float32) - whole) / np.std(whole)
    assert error < (1e-5 if "rank 4" in form.name else 0.005 if "float16" in form.name else 0.15)
    assert (form.flops, form.size_bytes, form.repeats, form.op_class) == (
        case.flops, case.size_bytes, case.repeats, case.op_class,
    )  # fmt: skip


def test_the_int8_variant_holds_8_bit_weights():
    form = next(form for form in case_variants(SMALL[1]) if "int8" in form.name)
    graph = onnx.load_from_string(form.build()).graph
    weight = next(tensor for tensor in graph.initializer if tensor.name == "w0.steps")
    assert weight.data_type == onnx.TensorProto.INT8
    assert tuple(weight.dims) == (256, 256)
    product = next(node for node in graph.node if node.op_type == "MatMul")
    makers = {name: node.op_type for node in graph.node for name in node.output}
    assert [makers[name] for name in product.input] == ["DequantizeLinear", "DequantizeLinear"]
    assert [n.op_type for n in graph.node if product.output[0] in n.input] == ["QuantizeLinear"]


def test_a_models_own_operators_have_no_variants():
    own = replace(SMALL[0], make_feeds=dict)
    assert list(case_variants(own)) == []


def test_small_cases_cover_every_class_early_with_little_work():
    wanted = {case.op_class for case in standard_cases()}
    assert {case.op_class for case in SMALL[: len(wanted)]} == wanted
    assert len({case.name for case in SMALL}) == len(SMALL)
    assert max(size_bytes for _, size_bytes in (case.run_cost for case in SMALL)) <= 8 << 20
    assert max(flops for flops, _ in (case.run_cost for case in SMALL)) < 1e8


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(measuring, "read_bandwidth_bytes_per_s", lambda: 1e10)
    monkeypatch.setattr(measuring, "peak_flops", lambda device, options: 1e11)
    monkeypatch.setattr(measuring, "measure_memory", lambda *_: ())
    monkeypatch.setattr(measuring, "small_cases", lambda: [case for case in SMALL if case.op_class is OpClass.MATVEC])


@pytest.fixture
def simulated(monkeypatch):
    """A device that runs as the CPU does, and that its engine lists as simulated."""
    device = replace(ORT, reality="simulated")
    listed = engines._listed
    monkeypatch.setattr(engines, "_listed", lambda wanted: device if wanted == device else listed(wanted))
    return device


def test_a_refused_case_is_measured_as_a_variant(quick, simulated, monkeypatch):
    """An int8-only device: the refusal of float32 is recorded, and the class still has a cost."""
    bound = measuring._time_case

    def eight_bits_only(case, device, options):
        if "int8" in case.name or case.name.startswith("tiny"):
            return bound(case, device, options)
        raise EngineFailed("no kernel for floats")

    monkeypatch.setattr(measuring, "_time_case", eight_bits_only)
    first = measuring.measure([simulated])
    result = first.devices["cpu:ort"]
    names = [case.name for case in SMALL if case.op_class is OpClass.MATVEC]
    assert [point.case for point in result.points] == [f"{name} as int8 QDQ" for name in names]
    assert result.refused == dict.fromkeys(names, "no kernel for floats")
    product = OpFeatures("MatMul", OpClass.MATVEC, 1e6, 10**5, 10**3, 0, "float32")
    assert 0 < ProfileCosts(first).node_time_s(product, "cpu:ort") < float("inf")
    monkeypatch.setattr(measuring, "_time_case", lambda case, *rest: (_only_tiny(case), bound(case, *rest))[1])
    assert measuring.measure([simulated], known=first).devices == first.devices


def _only_tiny(case):
    assert case.name.startswith("tiny"), "measured again"


def test_a_case_whose_variants_are_all_refused_is_refused(quick, simulated, monkeypatch):
    bound, tried = measuring._time_case, []

    def refusing(case, device, options):
        if case.name.startswith("tiny"):
            return bound(case, device, options)
        tried.append(case.name)
        raise EngineFailed(f"not {case.name}")

    monkeypatch.setattr(measuring, "_time_case", refusing)
    result = measuring.measure([simulated]).devices["cpu:ort"]
    assert result.points == ()
    assert result.refused["matvec:1x256x256"] == "not matvec:1x256x256"
    assert [name for name in tried if name.startswith("matvec:1x256x256")] == [
        f"matvec:1x256x256{form}" for form in ("", " as rank 4", " as float16", " as int8 QDQ")
    ]


def test_simulated_devices_are_timed_with_fewer_runs(quick, simulated, monkeypatch):
    asked = []
    timing = measuring.CallTiming(1e-3, 0.0)
    monkeypatch.setattr(measuring, "time_calls", lambda call, **limits: (asked.append(limits), timing)[1])
    for device in (ORT, simulated):
        measuring._time_case(SMALL[1], device, LoadOptions())
    assert asked == [{}, {"min_runs": 3}]
