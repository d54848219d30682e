"""Takes a running model apart: what each engine made of it, told in the summands that a cost model knows.

A model that ran whole on a device says how long all its operators take together there. Its engine's profiler says how
that time is spread: which operators run as one kernel, and what changes of layout lie between them. With that, a piece
of the model that never ran is predicted from the same kernels; only what a cut changes (fusions lost, layouts and
tensors that cross it) is left to what was learned elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trisect.profiles.costmodel.call_costs import Calls
from trisect.profiles.costmodel.cost_terms import Term
from trisect.profiles.measuring.plan_trial import Trial, run_trial
from trisect.profiles.stored.segment_store import MeasuredSegment, Origin
from trisect.profiles.synthetic_networks.network_builder import NOISE
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions, ProfilingEngine
from trisect.runtime.engines.common.kernels import Kernel, scaled
from trisect.runtime.errors import EngineFailed
from trisect.runtime.plans.plan import Plan, Segment
from trisect.runtime.tensors.tensor_spec import Arrays

from ..graph.model_graph import Graph
from .trial_plans import TrialModel, TrialPlan, trial_feeds

LASTING_S = 0.2
_LEAST_S = 1e-7
_MOST_CALLING = 0.5
"""Of a segment's time at most so much is taken for the call itself."""


def kernel_segments(
    model: TrialModel,
    trial_plan: TrialPlan,
    trial: Trial,
    calls_s: Mapping[str, float],
    lasting_s: float = LASTING_S,
    origin: Origin = "plan",
) -> list[tuple[str, MeasuredSegment]]:
    """Device id and time of each kernel of a plan that ran.

    Parameters
    ----------
    model : TrialModel
        That the plan is of.
    trial_plan : TrialPlan
    trial : Trial
        What its segments took: a profiler slows what it looks at, so its times are brought in line with that.
    calls_s : mapping of str to float
        Device id -> what the call of a segment takes that computes next to nothing; see `measure_calls`.
    lasting_s : float
        How long the profiler looks at each segment.
    origin : {"plan", "network"}

    Returns
    -------
    list of (str, MeasuredSegment)
        None of a segment whose engine has no profiler, or whose tale makes no sense.
    """
    terms = model.node_terms(trial_plan.plan)
    looked = _segment_kernels(trial_plan.plan, trial, calls_s, lasting_s)
    return [
        (segment.device, row)
        for segment, made, kernels in zip(trial_plan.plan.segments, terms, looked, strict=True)
        for row in kernel_rows(kernels, made, origin)
    ]


def plan_kernels(
    plan: Plan,
    trial: Trial,
    calls_s: Mapping[str, float],
    lasting_s: float = LASTING_S,
    threads: int | None = None,
) -> list[Kernel]:
    """Kernels of a plan that ran; none where one of its engines does not tell.

    Parameters
    ----------
    plan : Plan
    trial : Trial
    calls_s : mapping of str to float
        As of `kernel_segments`.
    lasting_s : float
    threads : int, optional
        Of the engines; their default when left out.
    """
    looked = _segment_kernels(plan, trial, calls_s, lasting_s, threads)
    return [kernel for kernels in looked for kernel in kernels] if all(looked) else []


def _segment_kernels(
    plan: Plan, trial: Trial, calls_s: Mapping[str, float], lasting_s: float, threads: int | None = None
) -> list[tuple[Kernel, ...]]:
    options = LoadOptions(threads=threads, pinned=True)
    found = []
    for (segment, feeds), time_s in zip(_fed(plan), trial.segments_s, strict=True):
        inside_s = max(time_s - calls_s.get(segment.device, 0.0), time_s * _MOST_CALLING)
        found.append(scaled(measure_kernels(plan, segment, feeds, lasting_s, options), inside_s))
    return found


def measure_kernels(
    plan: Plan, segment: Segment, feeds: Arrays, lasting_s: float, options: LoadOptions
) -> tuple[Kernel, ...]:
    """Run one segment of a plan under its engine's profiler; none where it has none or fails."""
    device = _device(plan, segment)
    engine = engines.engine_for(device)
    if not isinstance(engine, ProfilingEngine):
        return ()
    try:
        return engine.kernels(Path(plan.folder) / segment.file, device, options, feeds, lasting_s)
    except EngineFailed:
        return ()


def kernel_rows(
    kernels: Sequence[Kernel], terms: Mapping[str, Sequence[Term]], origin: Origin
) -> list[MeasuredSegment]:
    """Kernels as measured sums, of which a cost model learns.

    Parameters
    ----------
    kernels : sequence of Kernel
    terms : mapping of str to sequence of Term
        Of each node, as part of the segment that was looked at.
    origin : {"plan", "network"}
    """
    rows = []
    for kernel in kernels:
        made = [term for node in kernel.nodes for term in terms.get(node, ())]
        moves = tuple(term for term in made if term.kind.startswith("layout"))
        works = tuple(term for term in made if not term.kind.startswith("layout"))
        if moves and works and kernel.layout_s > 0:
            parts = [(moves, kernel.layout_s), (works, kernel.time_s)]
        else:
            parts = [(moves + works, kernel.time_s + kernel.layout_s)]
        rows += [MeasuredSegment(part, max(time_s, _LEAST_S), 0.0, origin) for part, time_s in parts if part]
    return rows


def measure_calls(devices: Sequence[Device]) -> Calls:
    """Run models that are small at both ends and larger in the middle, with each device at the ends.

    Parameters
    ----------
    devices : sequence of Device
    """
    awake: dict[str, MeasuredSegment] = {}
    asleep_s: dict[str, list[tuple[float, float]]] = {device.id: [] for device in devices}
    starts_s, hops_s = [], []
    with TemporaryDirectory(prefix="trisect-calls-") as folder:
        for rows in (0, *_ROWS):
            path = Path(folder) / f"narrow {rows}.onnx"
            path.write_bytes(_narrow(rows))
            model = TrialModel(Graph.read(path), devices)
            for number, device in enumerate(devices):
                if not rows:
                    plan = model.whole(device, Path(folder) / f"awake {number}")
                    trial = _tried(plan)
                    awake[device.id] = MeasuredSegment(plan.terms[0], trial.segments_s[0], trial.spreads[0], "network")
                    starts_s.append(trial.beyond_s)
                    continue
                other = devices[(number + 1) % len(devices)]
                ends = {node: device.id if node in _ENDS else other.id for node in model.graph.nodes}
                plan = model.placed(ends, Path(folder) / f"asleep {rows} {number}")
                trial = _tried(plan)
                small = [i for i, segment in enumerate(plan.plan.segments) if set(segment.nodes) <= set(_ENDS)]
                hops_s.append((trial.beyond_s - starts_s[number]) / max(1, len(trial.segments_s) - 1))
                if len(small) < len(trial.segments_s):
                    # The last end comes right behind the long part.
                    meanwhile_s = sum(t for i, t in enumerate(trial.segments_s) if i not in small)
                    asleep_s[device.id].append((meanwhile_s, trial.segments_s[small[-1]]))
    return Calls(awake, asleep_s, float(np.median(starts_s)), max(0.0, float(np.median(hops_s or [0.0]))))


_ENDS = ("a", "b", "y", "z")
_ROWS, _WIDTH = (1, 64, 512), 512


def _tried(plan: TrialPlan) -> Trial:
    return run_trial(plan.plan, trial_feeds(plan.plan), most=300)


def _narrow(rows: int) -> bytes:
    """A model of so many rows in its middle; of nothing but its ends for none."""

    def op(name: str, op_type: str, *given: str) -> onnx.NodeProto:
        return helper.make_node(op_type, given, [f"{name}.out"], name=name)

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
    given = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "narrow", [x], [last], given)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString()


def _fed(plan: Plan) -> Iterator[tuple[Segment, Arrays]]:
    """Each segment with what it is given."""
    values = dict(trial_feeds(plan))
    for segment in plan.segments:
        given = {spec.name: values[spec.name] for spec in segment.inputs}
        yield segment, given
        if segment is not plan.segments[-1]:
            with closing(engines.load(Path(plan.folder) / segment.file, _device(plan, segment))) as module:
                values.update(module.run(given))


def _device(plan: Plan, segment: Segment) -> Device:
    return next(device for device in plan.devices if device.id == segment.device)
