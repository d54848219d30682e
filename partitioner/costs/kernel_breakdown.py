"""Breaks the time of a running model down into its engine's kernels, as measured cost terms.

A run of the whole model on a device gives the total time of its operators. The engine's profiler gives its
distribution: which operators run as one kernel, and which layout changes happen between them. With that, a segment that
never ran is predicted from the same kernels; only the effects of a cut (lost fusions, layout changes and tensors that
cross it) are predicted by cost models that were fitted elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trisect.profiles.costmodel.call_costs import CallCosts
from trisect.profiles.costmodel.cost_terms import CostTerm
from trisect.profiles.measuring.plan_trial import PlanTiming, run_trial
from trisect.profiles.stored.segment_store import MeasuredSegment, Origin
from trisect.profiles.synthetic_networks.network_builder import NOISE
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions, ProfilingEngine
from trisect.runtime.engines.common.kernels import Kernel, scale_to_total
from trisect.runtime.errors import EngineFailed
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_feeds import plan_feeds
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.scratch_folder import ScratchFolder
from trisect.runtime.tensors.tensor_spec import Arrays

from ..graph.model_graph import Graph
from .trial_plans import TrialModel, TrialPlan

log = logging.getLogger(__name__)

PROFILING_S = 0.2
_KERNEL_MIN_S = 1e-7
_CALL_SHARE_MAX = 0.5
"""Maximum share of a segment's time that is attributed to the call itself."""


def kernel_segments(
    model: TrialModel,
    trial_plan: TrialPlan,
    trial: PlanTiming,
    calls_s: Mapping[str, float],
    profiling_s: float = PROFILING_S,
    origin: Origin = "plan",
) -> list[tuple[str, MeasuredSegment]]:
    """Measure the kernels of a plan.

    Parameters
    ----------
    model : TrialModel
        The model of the plan.
    trial : PlanTiming
        Measured times of its segments: kernel times are scaled to these, because profiling slows the engine.
    calls_s : mapping of str to float
        Device id -> seconds of a call of a nearly empty segment; see `measure_calls`.
    profiling_s : float
        How long each segment runs with the engine's profiler enabled.

    Returns
    -------
    list of (str, MeasuredSegment)
        Device id and times of each kernel; none of a segment whose engine has no profiler or fails.
    """
    terms = model.node_terms(trial_plan.plan)
    kernels_of_segments = _segment_kernels(trial_plan.plan, trial, calls_s, profiling_s)
    return [
        (segment.device, row)
        for segment, node_terms, kernels in zip(trial_plan.plan.segments, terms, kernels_of_segments, strict=True)
        for row in kernel_rows(kernels, node_terms, origin)
    ]


def plan_kernels(
    plan: Plan, trial: PlanTiming, calls_s: Mapping[str, float], threads: int | None = None
) -> list[Kernel]:
    """Measure the kernels of a plan; none where an engine has no profiler or fails.

    Parameters
    ----------
    calls_s : mapping of str to float
        As of `kernel_segments`.
    threads : int, optional
        Number of threads of each engine; its default when left out.
    """
    kernels_of_segments = _segment_kernels(plan, trial, calls_s, PROFILING_S, threads)
    return [kernel for kernels in kernels_of_segments for kernel in kernels] if all(kernels_of_segments) else []


def _segment_kernels(
    plan: Plan, trial: PlanTiming, calls_s: Mapping[str, float], profiling_s: float, threads: int | None = None
) -> list[tuple[Kernel, ...]]:
    options = LoadOptions(threads=threads, pinned=True)
    kernels = []
    for (segment, feeds), time_s in zip(_segments_with_feeds(plan), trial.segments_s, strict=True):
        inside_s = max(time_s - calls_s.get(segment.device, 0.0), time_s * _CALL_SHARE_MAX)
        kernels.append(scale_to_total(_measure_kernels(plan, segment, feeds, profiling_s, options), inside_s))
    return kernels


def _measure_kernels(
    plan: Plan, segment: Segment, feeds: Arrays, profiling_s: float, options: LoadOptions
) -> tuple[Kernel, ...]:
    """Run a segment of a plan with the engine's profiler enabled; no kernels where it has none or fails."""
    device = _device(plan, segment)
    engine = engines.engine_for(device)
    if not isinstance(engine, ProfilingEngine):
        return ()
    try:
        return engine.kernels(Path(plan.folder) / segment.file, device, options, feeds, profiling_s)
    except EngineFailed as error:
        log.warning("the kernels of segment %d are not measured: %s", segment.index, error)
        return ()


def kernel_rows(
    kernels: Sequence[Kernel], terms: Mapping[str, Sequence[CostTerm]], origin: Origin
) -> list[MeasuredSegment]:
    """Return kernels as measured segments, to which cost models are fitted.

    Parameters
    ----------
    terms : mapping of str to sequence of CostTerm
        Cost terms of each node, as part of the measured segment.
    """
    rows = []
    for kernel in kernels:
        kernel_terms = [term for node in kernel.nodes for term in terms.get(node, ())]
        layout = tuple(term for term in kernel_terms if term.kind.startswith("layout"))
        compute = tuple(term for term in kernel_terms if not term.kind.startswith("layout"))
        if layout and compute and kernel.layout_s > 0:
            parts = [(layout, kernel.layout_s), (compute, kernel.time_s)]
        else:
            parts = [(layout + compute, kernel.time_s + kernel.layout_s)]
        rows += [MeasuredSegment(part, max(time_s, _KERNEL_MIN_S), 0.0, origin) for part, time_s in parts if part]
    return rows


def measure_calls(devices: Sequence[Device]) -> CallCosts:
    """Measure the call overhead of segments, in a loop and after another device has computed for some time.

    Runs models that are small at both ends and larger in the middle, with each device at the ends in turn.
    """
    warm: dict[str, MeasuredSegment] = {}
    cold_s: dict[str, list[tuple[float, float]]] = {device.id: [] for device in devices}
    starts_s, hops_s = [], []
    with ScratchFolder("calls") as folder:
        for rows in (0, *_MIDDLE_ROWS):
            path = Path(folder) / f"narrow {rows}.onnx"
            path.write_bytes(_bottleneck_model(rows))
            model = TrialModel(Graph.read(path), devices)
            for number, device in enumerate(devices):
                if not rows:
                    plan = model.whole(device, Path(folder) / f"warm {number}")
                    trial = _run(plan)
                    warm[device.id] = MeasuredSegment(plan.terms[0], trial.segments_s[0], trial.spreads[0], "network")
                    starts_s.append(trial.session_overhead_s)
                    continue
                other = devices[(number + 1) % len(devices)]
                ends = {node: device.id if node in _ENDS else other.id for node in model.graph.nodes}
                plan = model.placed(ends, Path(folder) / f"cold {rows} {number}")
                trial = _run(plan)
                small = [i for i, segment in enumerate(plan.plan.segments) if set(segment.nodes) <= set(_ENDS)]
                hops_s.append((trial.session_overhead_s - starts_s[number]) / max(1, len(trial.segments_s) - 1))
                if len(small) < len(trial.segments_s):
                    # The last end runs right after the long middle part.
                    meanwhile_s = sum(t for i, t in enumerate(trial.segments_s) if i not in small)
                    cold_s[device.id].append((meanwhile_s, trial.segments_s[small[-1]]))
    by_wait_s = {device_id: sorted(points) for device_id, points in cold_s.items()}  # on a busy machine, in any order
    return CallCosts(warm, by_wait_s, float(np.median(starts_s)), max(0.0, float(np.median(hops_s or [0.0]))))


_ENDS = ("a", "b", "y", "z")
_RUNS_MAX = 300
_MIDDLE_ROWS, _WIDTH = (1, 64, 512), 512


def _run(plan: TrialPlan) -> PlanTiming:
    return run_trial(plan.plan, plan_feeds(plan.plan), max_runs=_RUNS_MAX)


def _bottleneck_model(rows: int) -> bytes:
    """Return a model that is small at both ends, with `rows` rows in its middle; only its first end for 0."""

    def op(name: str, op_type: str, *inputs: str) -> onnx.NodeProto:
        return helper.make_node(op_type, inputs, [f"{name}.out"], name=name)

    ends = [op("a", "Relu", "x"), op("b", "Tanh", "a.out")]
    weights: dict[str, np.ndarray] = {}
    middle = []
    if rows:
        weights = {"rows": NOISE[:rows].reshape(rows, 1), "widen": np.resize(NOISE, (8, _WIDTH))}
        weights |= {f"w{i}": np.resize(NOISE[i:], (_WIDTH, _WIDTH)) / np.float32(_WIDTH) for i in range(2)}
        middle = [
            op("widen", "MatMul", "b.out", "widen"), op("rows", "Mul", "widen.out", "rows"),
            op("first", "MatMul", "rows.out", "w0"), op("second", "MatMul", "first.out", "w1"),
            op("narrow", "ReduceMax", "second.out"), op("y", "Relu", "narrow.out"), op("z", "Tanh", "y.out"),
        ]  # fmt: skip
    nodes = ends + middle
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8))
    last = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, (1, 1) if rows else (1, 8))
    initialisers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "narrow", [x], [last], initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString()


def _segments_with_feeds(plan: Plan) -> Iterator[tuple[Segment, Arrays]]:
    """Yield each segment with its inputs."""
    values = dict(plan_feeds(plan))
    for segment in plan.segments:
        feeds = {spec.name: values[spec.name] for spec in segment.inputs}
        yield segment, feeds
        if segment is not plan.segments[-1]:
            with closing(engines.load(Path(plan.folder) / segment.file, _device(plan, segment))) as module:
                values.update(module.run(feeds))


def _device(plan: Plan, segment: Segment) -> Device:
    return next(device for device in plan.devices if device.id == segment.device)
