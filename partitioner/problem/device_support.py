"""Determines which device can run which task: what compiles there, and computes what ONNX defines.

Each task is compiled as a small model of its own. Support of an operator depends on its attributes, dtypes and shapes,
so that tasks that agree in these are compiled once. Where a device compiles the whole model, its tasks are not compiled
one by one. What compiles is run, too: see `trisect.partitioner.problem.value_support`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from types import NoneType

import onnx_ir as ir

from trisect.profiles.capabilities.compile_verdicts import Capabilities, CompileProbe
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineMissing
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.scratch_folder import ScratchFolder
from trisect.runtime.tensors.tensor_spec import TensorSpec
from trisect.scheduler.problem.task_graph import TaskGraph

from ..graph.ir_values import spec_of, used_values
from ..graph.model_graph import Graph
from ..segments.pieces import Piece
from ..segments.segment_writer import write_segments
from .task_grouping import nodes_of_tasks
from .trial_units import TrialUnits
from .value_ranges import ValueRanges, value_ranges
from .value_support import value_results

_SMALL_BYTES = 1024
"""A constant up to this size may decide what an operator does (axes, a shape, a scale); a larger one is a weight."""
_NAMES_MAX = 4
_KEY_SHAPES_MAX = 3


def refusals(
    graph: Graph,
    tasks: TaskGraph,
    devices: Iterable[Device],
    capabilities: Capabilities,
    progress: Progress = no_progress,
    ranges: ValueRanges | None = None,
) -> dict[tuple[str, str], str]:
    """Return which tasks the devices cannot run, or compute differently than others.

    Parameters
    ----------
    tasks : networkx.DiGraph
        See `trisect.partitioner.problem.task_grouping.task_graph`.
    devices : iterable of Device
        A device whose engine is not installed (of a reference machine, say) is judged by its limits alone.
    ranges : ValueRanges, optional
        Of the graph; computed without assumptions of the user when left out.

    Returns
    -------
    dict
        Task and device id -> reason.
    """
    devices = tuple(devices)
    refused = compile_refusals(graph, tasks, devices, capabilities, progress)
    units = TrialUnits(graph, value_ranges(graph) if ranges is None else ranges)
    results = value_results(units, nodes_of_tasks(tasks), devices, refused, capabilities, progress)
    how = {"different": "computes something else", "failed": "fails when it runs"}
    return refused | {key: f"{how[r.outcome]}: {r.reason}" for key, r in results.items() if r.outcome in how}


def compile_refusals(
    graph: Graph,
    tasks: TaskGraph,
    devices: Iterable[Device],
    capabilities: Capabilities,
    progress: Progress = no_progress,
) -> dict[tuple[str, str], str]:
    """Return which tasks do not compile on the devices; the parameters are those of `refusals`.

    Returns
    -------
    dict
        Task and device id -> reason.
    """
    devices = tuple(devices)
    members = nodes_of_tasks(tasks)
    refused: dict[tuple[str, str], str] = {}
    with ScratchFolder("ask") as folder:
        models = TaskModels(graph, members, Path(folder))
        candidates = {task: candidate(graph, nodes, partial(models.file, task)) for task, nodes in members.items()}
        for number, device in enumerate(devices):
            text = f"checking which operators {device.id} supports"
            progress(number, len(devices), text)
            unsupported = _unsupported(candidates, models, device, capabilities, partial(_part_of, progress, text))
            refused.update({(task, device.id): reason for task, reason in unsupported})
    capabilities.save()
    return refused


def refused_segments(
    segments: Iterable[Segment], devices: Iterable[Device], folder: Path, capabilities: Capabilities
) -> list[tuple[Segment, str]]:
    """Compile each segment on its device, which may support its tasks one by one but not together.

    Returns
    -------
    list
        Segments that do not compile, with the reasons.
    """
    by_id = {device.id: device for device in devices}
    refused = []
    for segment in segments:
        candidate = CompileProbe(f"segment {segment.sha256}", partial(Path.joinpath, folder, segment.file))
        try:
            verdict = capabilities.supports(candidate, by_id[segment.device])
        except EngineMissing:
            continue
        if not verdict.ok:
            refused.append((segment, verdict.reason))
    capabilities.save()
    return refused


def described(segment: Segment) -> str:
    """Describe a segment in a sentence: its number and its first nodes."""
    nodes = ", ".join(segment.nodes[:_NAMES_MAX]) + (", ..." if len(segment.nodes) > _NAMES_MAX else "")
    return f"segment {segment.index} ({nodes})"


@dataclass
class TaskModels:
    """Tasks as ONNX files, written when the first is requested: nothing is written when all verdicts are cached."""

    graph: Graph
    members: Mapping[str, tuple[str, ...]]
    folder: Path
    _segments: dict[str, Segment] = field(default_factory=dict)
    _whole: Path | None = None

    def file(self, task: str) -> Path:
        """Return the ONNX file of a task."""
        return self.folder / "parts" / self._segment(task).file

    def inputs(self, task: str) -> tuple[TensorSpec, ...]:
        """Return the inputs of the file of a task."""
        return self._segment(task).inputs

    def has_plain_boundary(self, task: str) -> bool:
        """Return whether all inputs and outputs of a task are tensors of known rank."""
        nodes = [self.graph.nodes[name] for name in self.members[task]]
        values = chain.from_iterable(chain(used_values(node), node.outputs) for node in nodes)
        return all(v.shape is not None and isinstance(v.type, (ir.TensorType, NoneType)) for v in values if v.name)

    def _segment(self, task: str) -> Segment:
        if not self._segments:
            aside = self.folder / "parts"
            aside.mkdir()
            pieces = [Piece("", nodes) for nodes in self.members.values()]
            segments, _, _ = write_segments(self.graph, pieces, aside, is_trial=True)
            self._segments = dict(zip(self.members, segments, strict=True))
        return self._segments[task]

    def whole(self) -> Path:
        """Return the ONNX file of all tasks together."""
        if self._whole is None:
            aside = self.folder / "whole"
            aside.mkdir()
            inside = set(chain.from_iterable(self.members.values()))
            piece = Piece("", tuple(name for name in self.graph.nodes if name in inside))
            segments, _, _ = write_segments(self.graph, [piece], aside, is_trial=True)
            self._whole = aside / segments[0].file
        return self._whole


def _unsupported(
    candidates: Mapping[str, CompileProbe],
    models: TaskModels,
    device: Device,
    capabilities: Capabilities,
    progress: Callable[[int, int], None],
) -> Iterator[tuple[str, str]]:
    """Yield the tasks that a device cannot run, with the reasons."""
    verdicts = {task: capabilities.known(candidate, device) for task, candidate in candidates.items()}
    unknown = [task for task, verdict in verdicts.items() if verdict is None]
    try:
        if len(unknown) == len(candidates) > 1 and not capabilities.failure(models.whole(), device):
            # A device may support lists and tensors of unknown rank inside a model, but not as inputs or outputs.
            for task in filter(models.has_plain_boundary, unknown):
                capabilities.record(candidates[task], device)
        for number, task in enumerate(unknown):
            progress(number, len(unknown))
            verdicts[task] = capabilities.supports(candidates[task], device)
    except EngineMissing:
        pass
    for task, verdict in verdicts.items():
        if verdict is not None and not verdict.ok:
            yield task, verdict.reason


def _part_of(progress: Progress, text: str, done: int, total: int) -> None:
    progress(done, total, f"{text}, one by one")


def candidate(graph: Graph, nodes: tuple[str, ...], model: Callable[[], Path]) -> CompileProbe:
    """Return nodes as a candidate for a device; equal operators, attributes, dtypes and shapes give the same key.

    Parameters
    ----------
    model : callable
        Returns the nodes as an ONNX file.
    """
    position: dict[ir.Value, int] = {}
    digest = hashlib.sha256()
    described: list[str] = []
    values: list[ir.Value] = []
    for name in nodes:
        node = graph.nodes[name]
        proto = ir.serde.serialize_node(node)
        proto.ClearField("name")
        proto.ClearField("doc_string")
        proto.ClearField("metadata_props")
        del proto.input[:], proto.output[:]
        version = graph.model.graph.opset_imports.get(node.domain)
        digest.update(f"{version};".encode() + proto.SerializeToString(deterministic=True))
        for value in chain(node.inputs, used_values(node), node.outputs):
            if value is None or not value.name:
                digest.update(b"none;")
                continue
            digest.update(f"{position.setdefault(value, len(position))};{_describe(value)};".encode())
            digest.update(_small_value(graph, value))
            values.append(value)
        described += [node.op_type, *(_describe(v) for v in node.inputs if v is not None and v.name)]
    label = " ".join(described[: 1 + _KEY_SHAPES_MAX]) + (" ..." if len(described) > 1 + _KEY_SHAPES_MAX else "")
    shapes = [spec_of(value).shape for value in values if value.shape is not None]
    return CompileProbe(
        key=f"{label} {digest.hexdigest()[:20]}",
        model=model,
        dtypes=frozenset(graph.digraph.nodes[name]["dtype"] for name in nodes),
        rank=max(map(len, shapes), default=0),
        is_static=all(isinstance(dim, int) for shape in shapes for dim in shape)
        and all(value.shape is not None for value in values),
    )


def _describe(value: ir.Value) -> str:
    spec = spec_of(value)
    return f"{spec.dtype}[{','.join(map(str, spec.shape))}]"


def _small_value(graph: Graph, value: ir.Value) -> bytes:
    """Return the bytes of a constant that may decide what an operator does; a marker for a weight; else nothing."""
    name = str(value.name)
    if name in graph.folded:
        return graph.folded[name].tobytes()
    tensor = graph.constants.get(name)
    if tensor is None:
        return b""
    return tensor.tobytes() if tensor.nbytes <= _SMALL_BYTES and tensor.dtype != ir.DataType.STRING else b"weight"
