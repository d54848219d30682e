"""Measures the kernels of a model with OpenVINO's profiler, and maps them to nodes with its runtime model.

The runtime model lists for each step the layers of the original model that were fused into it. Layers have the names of
ONNX nodes or of their outputs, with a suffix after a slash where one node became several layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import openvino as ov

from ...tensors.tensor_spec import Arrays
from ..common.kernels import Kernel, ProfiledStep, interquartile_mean, map_to_nodes, producers_of, run_repeatedly
from .openvino_module import OpenVinoModule

_TRUNCATED_S = 0.5e-6
"""Half the resolution: the profiler truncates to whole microseconds."""
_LAYOUT, _CONSTANT = "Reorder", "Const"


def measure_kernels(model: Path, module: OpenVinoModule, feeds: Arrays, duration_s: float) -> tuple[Kernel, ...]:
    """Run a module that was compiled from `model` with ``PERF_COUNT``; see `ProfilingEngine.kernels`."""
    times_s: dict[str, list[float]] = defaultdict(list)
    binding = module.bind(feeds, {})
    binding.run()
    request = module.request()

    def run() -> None:
        binding.run()
        for info in request.get_profiling_info():
            if info.status == info.Status.EXECUTED:
                times_s[info.node_name].append(info.real_time.total_seconds() + _TRUNCATED_S)

    warm_up = run_repeatedly(run, duration_s)
    step_times_s = {name: interquartile_mean(durations[warm_up:]) for name, durations in times_s.items()}
    whole = onnx.load(model, load_external_data=False)
    runtime_model = request.get_compiled_model().get_runtime_model()
    return map_to_nodes(whole, list(_steps(whole, runtime_model, step_times_s)))


def _steps(whole: onnx.ModelProto, runtime_model: ov.Model, times_s: Mapping[str, float]) -> Iterator[ProfiledStep]:
    names = {node.name for node in whole.graph.node}
    producers = producers_of(whole)

    def node_of(layer: str) -> str | None:
        for text in (layer, layer.rpartition("/")[0]):
            if text in names:
                return text
            if text in producers:
                return producers[text]
        return None

    constants: set[str] = set()
    for op in runtime_model.get_ordered_ops():
        info: Any = op.get_rt_info()
        name = op.get_friendly_name()
        inputs = tuple(value.get_node().get_friendly_name() for value in op.input_values())
        kind = info["layerType"].astype(str) if "layerType" in info else ""
        if kind == _CONSTANT or (inputs and constants.issuperset(inputs)):
            # Weights that are reordered when the model is loaded have the name of the node that reads them.
            constants.add(name)
            continue
        layers = info["originalLayersNames"].astype(str).split(",") if "originalLayersNames" in info else []
        nodes = {node for layer in layers if (node := node_of(layer)) is not None}
        is_layout = kind == _LAYOUT
        yield ProfiledStep(name, () if is_layout else tuple(sorted(nodes)), times_s.get(name, 0.0), inputs, is_layout)
