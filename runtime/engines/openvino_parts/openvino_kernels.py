"""Which kernels OpenVINO made of a model, and their times: its profiler beside its runtime model.

The runtime model names, for each step, the layers of the read model that went into it. Those are called after ONNX
nodes or their outputs, with something behind a slash where one node became several layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import openvino as ov

from ...tensors.tensor_spec import Arrays
from ..common.kernels import Kernel, ProfiledStep, interquartile_mean, map_to_nodes, run_repeatedly
from .openvino_module import OpenVinoModule

_TRUNCATED_S = 0.5e-6
"""It counts whole microseconds, and cuts off the rest."""
_LAYOUT, _CONSTANT = "Reorder", "Const"


def measure_kernels(model: Path, module: OpenVinoModule, feeds: Arrays, duration_s: float) -> tuple[Kernel, ...]:
    """Run a module that was compiled with ``PERF_COUNT``, and read what its steps took.

    Parameters
    ----------
    model : Path
        That it was read from.
    module : OpenVinoModule
    feeds : mapping of str to ndarray
    duration_s : float

    Raises
    ------
    EngineFailed
        With OpenVINO's reason in one line.
    """
    times_s: dict[str, list[float]] = defaultdict(list)
    binding = module.bind(feeds, {})
    binding.run()
    request = module._open()

    def run() -> None:
        binding.run()
        for info in request.get_profiling_info():
            if info.status == info.Status.EXECUTED:
                times_s[info.node_name].append(info.real_time.total_seconds() + _TRUNCATED_S)

    warm = run_repeatedly(run, duration_s)
    middle_s = {name: interquartile_mean(taken[warm:]) for name, taken in times_s.items()}
    whole = onnx.load(model, load_external_data=False)
    inside = request.get_compiled_model().get_runtime_model()
    return map_to_nodes(whole, list(_steps(whole, inside, middle_s)))


def _steps(whole: onnx.ModelProto, inside: ov.Model, times_s: Mapping[str, float]) -> Iterator[ProfiledStep]:
    names = {node.name for node in whole.graph.node}
    makers = {made: node.name for node in whole.graph.node for made in node.output if made}

    def node_of(layer: str) -> str | None:
        for text in (layer, layer.rpartition("/")[0]):
            if text in names:
                return text
            if text in makers:
                return makers[text]
        return None

    fixed: set[str] = set()
    for op in inside.get_ordered_ops():
        told: Any = op.get_rt_info()
        name = op.get_friendly_name()
        given = tuple(value.get_node().get_friendly_name() for value in op.input_values())
        kind = told["layerType"].astype(str) if "layerType" in told else ""
        if kind == _CONSTANT or (given and fixed.issuperset(given)):
            # Weights, brought into shape when the model is loaded, are called after the node that reads them.
            fixed.add(name)
            continue
        layers = told["originalLayersNames"].astype(str).split(",") if "originalLayersNames" in told else []
        nodes = {node for layer in layers if (node := node_of(layer)) is not None}
        is_layout = kind == _LAYOUT
        yield ProfiledStep(name, () if is_layout else tuple(sorted(nodes)), times_s.get(name, 0.0), given, is_layout)
