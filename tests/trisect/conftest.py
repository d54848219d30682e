"""A small model, and a plan over two engines that is made as a user makes one."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import trisect
from trisect import api
from trisect.partitioner.costs import calibration, cut_measurement
from trisect.partitioner.problem.problem_builder import ProblemInputs
from trisect.profiles.costmodel.op_features import OpClass
from trisect.profiles.measuring.contention import EXECUTORS, contending_pairs
from trisect.profiles.stored import profile_store as store
from trisect.profiles.stored.profile_data import Contention, DeviceProfile, Link, Point, Profile, Provenance
from trisect.runtime.device import Device

LAYERS = 6
WIDTH = 16


def weights(layer: int) -> np.ndarray:
    rng = np.random.default_rng(layer)
    return (rng.standard_normal((WIDTH, WIDTH)) / 4).astype(np.float32)


def expected(x: np.ndarray) -> np.ndarray:
    """What the model computes, in numpy."""
    for layer in range(LAYERS):
        x = np.maximum(x @ weights(layer), 0)
    return x


@trisect.strategy("zigzag")
def zigzag(problem: trisect.Problem) -> dict[str, str]:
    """Changes the device after each third of the tasks, so that there is something to hand over."""
    ids = [device.id for device in problem.devices]
    return {task: ids[3 * number // len(problem.graph) % len(ids)] for number, task in enumerate(problem.graph)}


def calibrate_by_rule(patch: pytest.MonkeyPatch) -> None:
    """Let each node take 1 us on cpu:ort and a tenth more elsewhere, instead of running the model to measure it.

    Otherwise which device gets a node depends on what else the machine does. As in the engines, an activation and the
    node before it are one kernel.
    """

    def measure(inputs: ProblemInputs, device: Device, *_: float) -> calibration._ModelTimes:
        node_s = 1e-6 if device.id == "cpu:ort" else 1.1e-6
        kernels: list[list[int]] = []
        for number, node in enumerate(inputs.graph.nodes.values()):
            if kernels and node.op_type == "Relu":
                kernels[-1].append(number)
            else:
                kernels.append([number])
        times = [(numbers, len(numbers) * node_s, 0.0) for numbers in kernels]
        return calibration._ModelTimes(len(inputs.graph.nodes) * node_s, times, 1e-5)

    patch.setattr(calibration, "_measure_kernels", measure)
    patch.setattr(cut_measurement, "_measured", lambda *_, **__: [])


@pytest.fixture(autouse=True)
def _calibrated_by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    calibrate_by_rule(monkeypatch)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nodes, name = [], "x"
    for layer in range(LAYERS):
        nodes.append(helper.make_node("MatMul", [name, f"w{layer}"], [f"m{layer}"], name=f"matmul{layer}"))
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [f"r{layer}"], name=f"relu{layer}"))
        name = f"r{layer}"
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(weights(layer), f"w{layer}") for layer in range(LAYERS)],
    )
    path = tmp_path_factory.mktemp("model") / "layers.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def store_synthetic_profile() -> None:
    """Store a profile of synthetic costs for the available devices, in place of any that other tests stored."""
    devices = api.devices()
    points = tuple(
        Point(f"{kind}:{size}", kind, "synthetic", flops=2.0 * size, size_bytes=4 * size, time_s=1e-6 + size * 1e-9)
        for kind in OpClass
        for size in (100, 10_000, 1_000_000)
    )
    device_profiles = {
        d.id: DeviceProfile(d.id, d.name, d.engine_version, call_overhead_s=1e-5, node_overhead_s=1e-6, points=points)
        for d in devices
    }
    links = tuple(Link(a.id, b.id, 1e-5, None) for a in devices for b in devices if a.id != b.id)
    contention = tuple(
        Contention(device.id, beside.id, executor, kind, alone_s=1e-3, together_s=2e-3)
        for pair in contending_pairs(devices)
        for device, beside in (pair, pair[::-1])
        for executor in EXECUTORS
        for kind in (OpClass.MATMUL, OpClass.MATVEC)
    )
    origin = Provenance("measured", platform.node(), "synthetic", "", "", {}, None)
    store.save(
        Profile(origin, "float32", device_profiles, links, contention=contention),
        store.default_path(),
    )


@pytest.fixture(scope="session")
def measured() -> None:
    """Stores a profile, so that no split has to measure."""
    store_synthetic_profile()


@pytest.fixture(scope="session")
def two_devices(measured: None) -> str:
    ids = [device.id for device in api.devices("cpu")]
    if len(ids) < 2:
        pytest.skip("needs two engines on the CPU")
    return ",".join(ids[:2])


@pytest.fixture(scope="session")
def plan_folder(model: Path, two_devices: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plans") / "plan"
    with pytest.MonkeyPatch.context() as patch:
        calibrate_by_rule(patch)
        api.split(model, two_devices, "zigzag", shapes={"batch": 3}, out=folder)
    return folder
