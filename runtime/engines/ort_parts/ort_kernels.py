"""Which kernels ONNX Runtime made of a model, and their times: its profiler's events beside its optimised graph.

Events are named after the optimised graph's nodes. A fusion keeps the output of its last node, or a name made of it,
and convolutions in blocks of channels (``..._nchwc``) have ReorderInput and ReorderOutput around them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import onnx
import onnxruntime as ort

from ...device import Device
from ...errors import EngineFailed
from ...tensors.tensor_spec import Arrays
from ..base import LoadOptions
from ..common.engine_errors import vendor_message
from ..common.kernels import Kernel, ProfiledStep, interquartile_mean, map_to_nodes, run_repeatedly
from .ort_session import affinity_of, session_options

_LAYOUTS = frozenset({"ReorderInput", "ReorderOutput"})
_EVENT, _BLOCKED = "_kernel_time", "_nchwc"
_TRUNCATED_S = 0.5e-6
"""It counts whole microseconds, and cuts off the rest."""


class _Event(msgspec.Struct):
    name: str = ""
    dur: float = 0.0


def measure_kernels(
    model: Path, device: Device, options: LoadOptions, feeds: Arrays, duration_s: float
) -> tuple[Kernel, ...]:
    """Run a model under the profiler.

    Parameters
    ----------
    model : Path
    device : Device
    options : LoadOptions
    feeds : mapping of str to ndarray
        Checked before.
    duration_s : float

    Raises
    ------
    EngineFailed
        With ONNX Runtime's reason in one line.
    """
    affinity = affinity_of(options)
    settings = session_options(options, affinity)

    def run() -> None:
        if affinity is not None:
            affinity.leave_helper_cores()
        session.run(None, dict(feeds))

    with TemporaryDirectory(prefix="trisect-kernels-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        settings.optimized_model_filepath = str(optimised)
        settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        try:
            session = ort.InferenceSession(str(model), settings, providers=[device.native], enable_fallback=0)
            warm = run_repeatedly(run, duration_s)
            told = Path(session.end_profiling()).read_bytes()
            inside = onnx.load(optimised, load_external_data=False)
        except Exception as error:  # its exceptions share no base
            raise EngineFailed(f"ONNX Runtime could not profile {model.name}: {vendor_message(error)}") from error
    events = msgspec.json.decode(told, type=list[_Event])
    whole = onnx.load(model, load_external_data=False)
    return map_to_nodes(whole, list(_steps(whole, inside, events, warm)))


def _steps(
    whole: onnx.ModelProto, inside: onnx.ModelProto, events: Sequence[_Event], warm: int
) -> Iterator[ProfiledStep]:
    durations_s: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.name.endswith(_EVENT):
            durations_s[event.name.removesuffix(_EVENT)].append(event.dur * 1e-6 + _TRUNCATED_S)
    names = {node.name for node in whole.graph.node}
    makers = {made: node.name for node in whole.graph.node for made in node.output if made}
    inside_makers = {made: node.name for node in inside.graph.node for made in node.output if made}
    for node in inside.graph.node:
        is_layout = node.op_type in _LAYOUTS
        known = {node.name} & names | {makers[made] for made in node.output if made in makers}
        known |= {makers[made] for made in [node.name.partition(_BLOCKED)[0]] if made in makers}
        given = (inside_makers[tensor] for tensor in node.input if tensor in inside_makers)
        time_s = interquartile_mean(durations_s[node.name][warm:]) if node.name in durations_s else 0.0
        yield ProfiledStep(node.name, () if is_layout else tuple(sorted(known)), time_s, tuple(given), is_layout)
