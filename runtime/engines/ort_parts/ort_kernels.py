"""Measures the kernels of a model with ONNX Runtime's profiler, and maps them to nodes with its optimised graph.

Events have the names of the optimised graph's nodes. A fused node keeps the output of its last node, or a name derived
from it; convolutions in the layout NCHWc (``..._nchwc``) are surrounded by ReorderInput and ReorderOutput.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import onnx
import onnxruntime as ort

from ...device import Device
from ...errors import EngineFailed
from ...scratch_folder import ScratchFolder
from ...tensors.tensor_spec import Arrays
from ..base import LoadOptions
from ..common.engine_errors import vendor_message
from ..common.kernels import Kernel, ProfiledStep, interquartile_mean, map_to_nodes, producers_of, run_repeatedly
from .ort_session import affinity_of, session_options

_LAYOUTS = frozenset({"ReorderInput", "ReorderOutput"})
_EVENT, _BLOCKED = "_kernel_time", "_nchwc"
_TRUNCATED_S = 0.5e-6
"""Half the resolution: the profiler truncates to whole microseconds."""


class _ProfilerEvent(msgspec.Struct):
    name: str = ""
    dur: float = 0.0


def measure_kernels(
    model: Path, device: Device, options: LoadOptions, feeds: Arrays, duration_s: float
) -> tuple[Kernel, ...]:
    """Run a model with the profiler enabled, on feeds that are already checked; see `ProfilingEngine.kernels`."""
    affinity = affinity_of(options)
    settings = session_options(options, affinity)

    def run() -> None:
        if affinity is not None:
            affinity.leave_helper_cores()
        session.run(None, dict(feeds))

    with ScratchFolder("kernels") as folder:
        optimised = Path(folder) / "optimised.onnx"
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        settings.optimized_model_filepath = str(optimised)
        settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        try:
            session = ort.InferenceSession(str(model), settings, providers=[device.native], enable_fallback=0)
            warm_up = run_repeatedly(run, duration_s)
            profile = Path(session.end_profiling()).read_bytes()
            optimised_model = onnx.load(optimised, load_external_data=False)
        except Exception as error:  # its exceptions share no base
            raise EngineFailed(f"ONNX Runtime could not profile {model.name}: {vendor_message(error)}") from error
    events = msgspec.json.decode(profile, type=list[_ProfilerEvent])
    whole = onnx.load(model, load_external_data=False)
    return map_to_nodes(whole, list(_steps(whole, optimised_model, events, warm_up)))


def _steps(
    whole: onnx.ModelProto, optimised: onnx.ModelProto, events: Sequence[_ProfilerEvent], warm_up: int
) -> Iterator[ProfiledStep]:
    durations_s: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.name.endswith(_EVENT):
            durations_s[event.name.removesuffix(_EVENT)].append(event.dur * 1e-6 + _TRUNCATED_S)
    names = {node.name for node in whole.graph.node}
    producers, optimised_producers = producers_of(whole), producers_of(optimised)
    for node in optimised.graph.node:
        is_layout = node.op_type in _LAYOUTS
        known = {node.name} & names | {producers[output] for output in node.output if output in producers}
        known |= {producers[output] for output in [node.name.partition(_BLOCKED)[0]] if output in producers}
        inputs = (optimised_producers[name] for name in node.input if name in optimised_producers)
        time_s = interquartile_mean(durations_s[node.name][warm_up:]) if node.name in durations_s else 0.0
        yield ProfiledStep(node.name, () if is_layout else tuple(sorted(known)), time_s, tuple(inputs), is_layout)
