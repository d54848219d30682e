"""Capability queries agree with what the engines really compile."""

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
import pytest

import trisect
from trisect.context.context import create_context
from trisect.profiles import reference
from trisect.profiles.capabilities import op_support_limits
from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.profiles.capabilities.op_support_limits import cached_limits, probe_limits
from trisect.runtime.engines import find_devices
from trisect.runtime.errors import EngineMissing, InvalidInput


@pytest.fixture(scope="module", autouse=True)
def _own_limits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Limits of a few operators are no limits for the other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRISECT_PROFILES", str(tmp_path_factory.mktemp("limits") / "profiles"))
        yield


@pytest.fixture(scope="module")
def limits(_own_limits: None):
    return probe_limits(find_devices("cpu:ort")[0])


def test_operators_compile_if_and_only_if_they_are_listed(limits):
    """Compiled by the engine directly, without this project's code."""
    for name, dtype, number in (
        ("Relu", "float32", 1),
        ("Relu", "int32", 6),
        ("Erf", "float64", 11),
        ("Det", "float32", 1),
    ):
        model = onnx.helper.make_model(
            onnx.helper.make_graph(
                [onnx.helper.make_node(name, ["x"], ["y"])],
                "g",
                [onnx.helper.make_tensor_value_info("x", number, [2, 3, 3])],
                [onnx.helper.make_tensor_value_info("y", number, None)],
            ),
            opset_imports=[onnx.helper.make_opsetid("", 21)],
            ir_version=10,
        )
        try:
            onnxruntime.InferenceSession(model.SerializeToString())
            compiles = True
        except Exception:
            compiles = False
        assert (dtype in limits.operators[name].dtypes) == compiles, (name, dtype)


def test_most_operators_are_probed_and_refusals_have_reasons(limits):
    assert len(limits.operators) > 150
    assert sum(bool(operator.dtypes) for operator in limits.operators.values()) > 150
    for operator in limits.operators.values():
        assert all(operator.refused.values())
        assert not set(operator.refused) & set(operator.dtypes)
    assert limits.maximum_rank is None
    assert not limits.static_shapes
    assert "uint8" in limits.quantised


def test_answers_are_cached_and_survive_damage(limits, tmp_path: Path):
    device = find_devices("cpu:ort")[0]
    assert cached_limits(device) == limits
    store = tmp_path / "limits.json"
    assert cached_limits(device, Capabilities(store)) is None
    store.write_bytes(b"{garbage")
    capabilities = Capabilities(store)
    assert cached_limits(device, capabilities) is None
    assert capabilities.moved is not None


def test_a_context_answers_in_three_words(limits):
    context = create_context(devices="cpu:ort")
    assert context.query_support(["float32"], 6, ["lstm", "hardSwish", "MatMul", "conv2d"]) == "optimized"
    refused = context.query_support(operators=["ImageDecoder"])
    assert refused == "unsupported"
    assert "ImageDecoder" in refused.devices["cpu:ort"]
    assert context.query_support(data_types=["complex64"]) == "unsupported"


def test_another_device_of_the_context_is_a_fallback(limits, monkeypatch: pytest.MonkeyPatch):
    two = {name: models for name, models in op_support_limits._by_operator().items() if name in ("Det", "Relu")}
    monkeypatch.setattr(op_support_limits, "_by_operator", lambda: two)
    assert list(probe_limits(find_devices("cpu:openvino")[0]).operators) == ["Det", "Relu"]
    context = create_context(devices="cpu:openvino,cpu:ort", fallback=["cpu"])
    assert context.query_support(operators=["Det"]) == "optimized"  # one tier: any device will do
    tiers = tuple((device,) for device in find_devices("cpu:openvino,cpu:ort"))
    from trisect.context.op_support import query_support

    assert query_support(tiers, ["float32"], None, ["Det"]) == "fallback"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_types": ["float23"]}, "unknown data type 'float23'"),
        ({"operators": ["matmull"]}, "did you mean 'MatMul'"),
        ({"maximum_rank": -1}, "maximum_rank=-1: expected an integer"),
    ],
)
def test_an_unknown_type_operator_or_rank_is_refused(limits, options, message):
    with pytest.raises(InvalidInput, match=message):
        create_context(devices="cpu:ort").query_support(**options)


def test_an_entry_makes_a_context(limits):
    context = create_context(limits=trisect.op_support_limits_per_device("cpu:ort")["cpu:ort"])
    assert [device.id for device in context.devices] == ["cpu:ort"]


def test_a_published_device_is_assessed_by_its_published_limits_alone():
    device = reference.machine("nvidia-h200").devices[1]
    with pytest.raises(EngineMissing, match="gpu:cuda cannot be probed from here"):
        probe_limits(device)
    context = create_context(machine="nvidia-h200", accelerated=True)
    assert context.query_support(data_types=["float16"], operators=["lstm"]) == "optimized"
