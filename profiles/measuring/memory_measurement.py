"""Measures the memory that loaded models take: per model, per byte of weights, and per byte of tensors.

Engines reorder weights, allocate scratch memory, and keep memory that they once allocated, so a plan needs more than
the size of its files. For each device, models are loaded one after the other in a fresh process, started as the
executor ``processes`` starts it; the growth of the process is attributed to the models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import psutil
from onnx import helper

from trisect.runtime.device import Device
from trisect.runtime.engines import capabilities
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.scratch_folder import ScratchFolder
from trisect.runtime.tensors.tensor_spec import TensorSpec
from trisect.runtime.workers.tensor_pool import TensorPool
from trisect.runtime.workers.worker_client import WorkerClient
from trisect.runtime.workers.worker_process import WorkerProcess

from ..stored.profile_data import MemoryPoint
from .onnx_builder import build_model

_RUNS = 3
_WARM_UP_MODELS = 4
"""The first models include the memory of the engine itself."""


@dataclass(frozen=True)
class MemoryModel:
    """A model of known weights and tensors; its weights are in a file beside it, as those of a plan are."""

    name: str
    weights_bytes: int
    tensors_bytes: int
    """Peak of the tensors that are alive at once during a run."""
    shape: tuple[int, ...]
    nodes: Sequence[onnx.NodeProto]
    weight_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    output_shape: tuple[int, ...] | None = None
    """None = that of the input."""

    def write(self, path: Path) -> None:
        """Write the model, and its weights beside it."""
        random = np.random.default_rng(0)
        weights = {
            name: (random.random(shape, np.float32) - 0.5) / np.float32(shape[-1])
            for name, shape in self.weight_shapes.items()
        }
        output_shape = self.shape if self.output_shape is None else self.output_shape
        model = build_model(self.nodes, self.shape, output_shape, {**weights, **self.constants})
        location = f"{path.stem}.weights"
        onnx.save_model(model, path, save_as_external_data=bool(weights), location=location, size_threshold=1024)


def memory_models() -> list[MemoryModel]:
    """Return a minimal model, two that are mostly weights, and one that is mostly tensors."""
    return [_minimal(4), _matmuls(8, 1024), _convolutions(12, 256), _large_tensors(8192, 1024)]


def has_own_memory(device: Device) -> bool:
    """Return whether a device's memory is not that of the process: the driver of a GPU or NPU may place it anywhere."""
    is_accelerator = device.is_real and device.kind != "cpu"
    return is_accelerator or device.reality == "published" or not capabilities(device).computes


def measure_memory(device: Device, options: LoadOptions) -> tuple[MemoryPoint, ...]:
    """Measure the growth of a process that loads and runs models.

    Parameters
    ----------
    device : Device
        Without memory of its own.
    options : LoadOptions

    Raises
    ------
    EngineFailed
        When it cannot run the models.
    """
    pool = TensorPool(shared=True)
    worker_process = WorkerProcess()
    try:
        worker, process = WorkerClient(worker_process.channel, pool, device), psutil.Process(worker_process.pid)
        points = []
        with ScratchFolder("memory") as folder:
            for index, model in enumerate([memory_models()[0]] * _WARM_UP_MODELS + memory_models()):
                file = Path(folder) / f"{index}.onnx"
                model.write(file)
                ends = (TensorSpec("x", "float32", model.shape),), (TensorSpec("y", "float32", ("n",)),)
                segment = Segment(index, device.id, (model.name,), *ends, file.name)
                before = process.memory_info().rss
                worker.load(segment, file, options)
                feeds = {"x": np.ones(model.shape, np.float32)}
                for _ in range(_RUNS):
                    worker.run(segment, feeds)
                grown = max(0, process.memory_info().rss - before)
                if index >= _WARM_UP_MODELS:
                    points.append(MemoryPoint(model.name, model.weights_bytes, model.tensors_bytes, grown))
        return tuple(points)
    finally:
        worker_process.close()
        pool.close()


def _minimal(count: int) -> MemoryModel:
    return MemoryModel("tiny", 0, 0, (count,), [helper.make_node("Softmax", ["x"], ["y"], axis=0)])


def _matmuls(count: int, size: int) -> MemoryModel:
    names = ["x", *[f"t{i}" for i in range(1, count)], "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(count)]
    weights = {f"w{i}": (size, size) for i in range(count)}
    return MemoryModel("weights of products", 4 * count * size * size, 8 * size, (1, size), nodes, weights)


def _convolutions(count: int, channels: int) -> MemoryModel:
    names, shape = ["x", *[f"t{i}" for i in range(1, count)], "y"], (1, channels, 8, 8)
    nodes = [
        helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], kernel_shape=[3, 3], pads=[1] * 4)
        for i in range(count)
    ]
    weights = {f"w{i}": (channels, channels, 3, 3) for i in range(count)}
    return MemoryModel("weights of convolutions", 36 * count * channels**2, 512 * channels, shape, nodes, weights)


def _large_tensors(rows: int, width: int) -> MemoryModel:
    """Large tensors between a small input and a small output, in operators that no engine fuses."""
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["a"]),
        helper.make_node("Softmax", ["a"], ["b"], axis=-1),
        helper.make_node("Transpose", ["b"], ["c"], perm=[1, 0]),
        helper.make_node("Softmax", ["c"], ["d"], axis=-1),
        helper.make_node("ReduceSum", ["d", "axes"], ["y"], keepdims=0),
    ]
    constants = {"shape": np.array([rows, width], np.int64), "axes": np.array([0, 1], np.int64)}
    return MemoryModel("tensors", 0, 8 * rows * width, (1, width), nodes, {}, constants, ())
