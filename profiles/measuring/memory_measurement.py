"""Measures the memory that a loaded model takes beyond its weights, and what its weights and tensors take in it.

Engines lay weights out anew, keep scratch memory, and hold on to what they once asked for: what a plan needs is more
than its files. Each device gets a fresh process, started as the executor ``processes`` starts it, in which models are
loaded one after the other; what the process grows by is theirs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.tensors.tensor_spec import TensorSpec
from trisect.runtime.workers.tensor_pool import TensorPool
from trisect.runtime.workers.worker_client import WorkerClient
from trisect.runtime.workers.worker_process import WorkerProcess

from ..costmodel.op_features import MemoryNeed
from ..stored.profile_data import DeviceProfile, MemoryPoint

_NULL = "null"
"""The engine that holds nothing, and stands for devices that would."""
_RUNS = 3
_FEW = 4


@dataclass(frozen=True)
class MemoryModel:
    """A model of known weights and tensors; its weights lie beside it in a file, as those of a plan do."""

    name: str
    weights_bytes: int
    tensors_bytes: int
    """The most that tensors take at once while it runs, when none is kept longer than it is needed."""
    shape: tuple[int, ...]
    write: Callable[[Path], None]


def memory_models() -> list[MemoryModel]:
    """A tiny one, two that are mostly weights, one that is mostly tensors."""
    return [_elementwise("tiny", 4), _products(8, 1024), _convolutions(12, 256), _rows("tensors", 8192, 1024)]


def has_own_memory(device: Device) -> bool:
    """Whether what a device holds is out of this system's sight; a GPU's or NPU's driver may keep it anywhere."""
    return (device.is_real and device.kind != "cpu") or device.engine == _NULL or device.reality == "published"


def measure_memory(device: Device, options: LoadOptions) -> tuple[MemoryPoint, ...]:
    """What a process grows by when it loads and runs models.

    Parameters
    ----------
    device : Device
        One whose memory is the process's.
    options : LoadOptions

    Raises
    ------
    EngineFailed
        Where it cannot run the models.
    """
    pool = TensorPool(shared=True)
    process = WorkerProcess()
    try:
        worker, seen = WorkerClient(process.channel, pool, device), psutil.Process(process.pid)
        found = []
        with tempfile.TemporaryDirectory(prefix="trisect-memory-") as folder:
            # The first models bring the engine itself in, and what it makes once for all.
            for index, model in enumerate([memory_models()[0]] * _FEW + memory_models()):
                file = Path(folder) / f"{index}.onnx"
                model.write(file)
                ends = (TensorSpec("x", "float32", model.shape),), (TensorSpec("y", "float32", ("n",)),)
                segment = Segment(index, device.id, (model.name,), *ends, file.name)
                before = seen.memory_info().rss
                worker.load(segment, file, options)
                feeds = {"x": np.ones(model.shape, np.float32)}
                for _ in range(_RUNS):
                    worker.run(segment, feeds)
                grown = max(0, seen.memory_info().rss - before)
                if index >= _FEW:
                    found.append(MemoryPoint(model.name, model.weights_bytes, model.tensors_bytes, grown))
        return tuple(found)
    finally:
        process.close()
        pool.close()


def memory_need(profile: DeviceProfile) -> MemoryNeed | None:
    """What models take on a device for each byte of weights and of tensors; None where nobody measured it.

    Examples
    --------
    >>> points = (MemoryPoint("tiny", 0, 0, 1000), MemoryPoint("w", 10**6, 0, 2_001_000),
    ...           MemoryPoint("t", 0, 10**6, 1_501_000))
    >>> memory_need(DeviceProfile("cpu:a", "A", "1", 1e-5, 1e-6, memory=points))
    MemoryNeed(model_bytes=1000.0, per_weight=2.0, per_tensor=1.5)
    """
    if not profile.memory:
        return None
    weighty = [point for point in profile.memory if point.weights_bytes > point.tensors_bytes]
    moving = [point for point in profile.memory if point.tensors_bytes > point.weights_bytes]
    tiny = min(profile.memory, key=lambda point: point.weights_bytes + point.tensors_bytes)
    model_bytes = float(tiny.resident_bytes)

    def share(points: list[MemoryPoint], of: Callable[[MemoryPoint], int]) -> float:
        whole = sum(of(point) for point in points if point is not tiny)
        taken = sum(max(0.0, point.resident_bytes - model_bytes) for point in points if point is not tiny)
        return taken / whole if whole else 1.0

    return MemoryNeed(
        model_bytes, share(weighty, lambda point: point.weights_bytes), share(moving, lambda point: point.tensors_bytes)
    )


def _elementwise(name: str, count: int) -> MemoryModel:
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=0)]
    return MemoryModel(name, 0, 0, (count,), partial(_write, nodes, (count,), {}, 0))


def _products(count: int, size: int) -> MemoryModel:
    names = ["x", *[f"t{i}" for i in range(1, count)], "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(count)]
    weights = {f"w{i}": (size, size) for i in range(count)}
    return MemoryModel("weights of products", 4 * count * size * size, 8 * size, (1, size),
                 partial(_write, nodes, (1, size), weights, 0))  # fmt: skip


def _convolutions(count: int, channels: int) -> MemoryModel:
    names, shape = ["x", *[f"t{i}" for i in range(1, count)], "y"], (1, channels, 8, 8)
    nodes = [
        helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], kernel_shape=[3, 3], pads=[1] * 4)
        for i in range(count)
    ]
    weights = {f"w{i}": (channels, channels, 3, 3) for i in range(count)}
    return MemoryModel("weights of convolutions", 36 * count * channels**2, 512 * channels, shape,
                 partial(_write, nodes, shape, weights, 0))  # fmt: skip


def _rows(name: str, rows: int, width: int) -> MemoryModel:
    """Large tensors between a small input and a small output, in operators that no engine computes as one."""
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["a"]),
        helper.make_node("Softmax", ["a"], ["b"], axis=-1),
        helper.make_node("Transpose", ["b"], ["c"], perm=[1, 0]),
        helper.make_node("Softmax", ["c"], ["d"], axis=-1),
        helper.make_node("ReduceSum", ["d", "axes"], ["y"], keepdims=0),
    ]
    return MemoryModel(name, 0, 8 * rows * width, (1, width), partial(_write, nodes, (1, width), {}, rows))


def _write(
    nodes: list[onnx.NodeProto], shape: tuple[int, ...], weights: Mapping[str, tuple[int, ...]], rows: int, path: Path
) -> None:
    random = np.random.default_rng(0)
    made = [
        numpy_helper.from_array((random.random(size, np.float32) - 0.5) / np.float32(size[-1]), name)
        for name, size in weights.items()
    ]
    if rows:
        made.append(numpy_helper.from_array(np.array([rows, shape[-1]], np.int64), "shape"))
        made.append(numpy_helper.from_array(np.array([0, 1], np.int64), "axes"))
    graph = helper.make_graph(
        nodes, "memory", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, () if rows else shape)], made,
    )  # fmt: skip
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    beside = f"{path.stem}.weights"
    onnx.save_model(model, path, save_as_external_data=bool(weights), location=beside, size_threshold=1024)
