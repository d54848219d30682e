"""Plans written by hand, with models small enough to compute in numpy: the runtime is tested without a partitioner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import parser

from trisect.runtime.engines import discover
from trisect.runtime.engines.common.model_signature import read_signature
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.plans.timeline import Timeline
from trisect.runtime.tensors.tensor_spec import TensorSpec

HEADER = '<ir_version: 10, opset_import: ["" : 18, "none" : 1]>'
FORK = "g (float[n,3] x) => (float[n,3] a, float[n,3] b) { a = Mul(x, x)  b = Neg(x) }"
LEFT = "g (float[n,3] a) => (float[n,3] l) { l = Add(a, a) }"
RIGHT = "g (float[n,3] b) => (float[n,3] r) { r = Abs(b) }"
JOIN = "g (float[n,3] l, float[n,3] r, float[n,3] b) => (float[n,3] y) { s = Add(l, r)  y = Sub(s, b) }"
WHOLE = (
    "g (float[n,3] x) => (float[n,3] y) "
    "{ a = Mul(x, x)  b = Neg(x)  l = Add(a, a)  r = Abs(b)  s = Add(l, r)  y = Sub(s, b) }"
)

Model = Callable[[str], bytes]
MakePlan = Callable[..., Plan]


def build(text: str) -> bytes:
    """ONNX bytes of a graph in ONNX's text form, or of a whole model with its opsets."""
    return parser.parse_model(text if text.startswith("<") else f"{HEADER} {text}").SerializeToString()


@pytest.fixture(scope="session")
def model() -> Model:
    return build


@pytest.fixture(scope="session")
def vector() -> Callable[[str], TensorSpec]:
    return lambda name: TensorSpec(name, "float32", ("n", 3))


@pytest.fixture
def make_plan(tmp_path: Path) -> MakePlan:
    """A plan folder of segments given as (device id, graph text)."""

    def make(parts: list[tuple[str, str]], inputs: list[TensorSpec], outputs: list[TensorSpec]) -> Plan:
        segments = []
        for index, (device, text) in enumerate(parts):
            file = tmp_path / f"segment-{index}.onnx"
            file.write_bytes(build(text))
            declared = read_signature(file)
            nodes = (f"node {index}",)
            segments.append(Segment(index, device, nodes, declared.inputs, declared.outputs, file.name))
        return Plan(
            model="whole.onnx",
            model_sha256="",
            devices=tuple(device for device in discover() if device.id in {name for name, _ in parts}),
            placement={},
            segments=tuple(segments),
            transfers=(),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            strategy="by hand",
            objective="latency",
            seed=0,
            shapes={},
            predicted=Timeline.of([], source="predicted"),
            value=0.0,
            bound=0.0,
            folder=str(tmp_path),
        )

    return make


@pytest.fixture
def diamond(make_plan: MakePlan, vector: Callable[[str], TensorSpec]) -> Plan:
    """y = 2 x**2 + |x| + x in four segments over two devices, of which the middle two do not need each other."""
    parts = [("cpu:ort", FORK), ("cpu:ort", LEFT), ("cpu:openvino", RIGHT), ("cpu:openvino", JOIN)]
    return make_plan(parts, [vector("x")], [vector("y")])


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """The model that `diamond` splits."""
    path = tmp_path / "whole.onnx"
    path.write_bytes(build(WHOLE))
    return path
