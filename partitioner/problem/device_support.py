"""Which device can run which task: each task as a small model of its own, shown to the engines.

What an engine says of an operator depends on its attributes, dtypes and shapes, so tasks that agree in these are asked
about once. A device that compiles the whole model is not asked about its parts.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from types import NoneType

import onnx_ir as ir

from trisect.profiles.capabilities.compile_verdicts import Candidate, Capabilities
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineMissing
from trisect.runtime.plans.plan import Segment
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.tensors.tensor_spec import TensorSpec
from trisect.scheduler.problem.task_graph import TaskGraph

from ..graph.model_graph import Graph, spec_of, used_values
from ..segments.segment_writer import Piece, write_segments

_SMALL_BYTES = 1024
"""A constant up to here may decide what an operator does (axes, a shape, a scale); a larger one is only weight."""
_NAMED = 4
_KEY_SHAPES = 3


def refusals(
    graph: Graph,
    tasks: TaskGraph,
    devices: Iterable[Device],
    capabilities: Capabilities,
    progress: Progress = no_progress,
) -> dict[tuple[str, str], str]:
    """Ask every device about every task.

    Parameters
    ----------
    graph : Graph
    tasks : networkx.DiGraph
        See `trisect.partitioner.problem.problem_builder.task_graph`.
    devices : iterable of Device
        One whose engine is not installed here (of a published machine, say) is judged by its limits alone.
    capabilities : Capabilities
    progress : callable, optional

    Returns
    -------
    dict
        Task and device id -> reason, for those that cannot be.
    """
    devices = tuple(devices)
    members: dict[str, tuple[str, ...]] = {task: data["nodes"] for task, data in tasks.nodes(data=True)}
    refused: dict[tuple[str, str], str] = {}
    with tempfile.TemporaryDirectory(prefix="trisect-ask-") as folder:
        pieces = Pieces(graph, members, Path(folder))
        asked = {task: candidate(graph, nodes, partial(pieces.of, task)) for task, nodes in members.items()}
        for number, device in enumerate(devices):
            progress(number, len(devices), f"asking {device.id} what it can run")
            refused.update({(task, device.id): why for task, why in _ask(asked, pieces, device, capabilities)})
    capabilities.save()
    return refused


def refused_segments(
    segments: Iterable[Segment], devices: Iterable[Device], folder: Path, capabilities: Capabilities
) -> list[tuple[Segment, str]]:
    """Compile each segment of a plan where it is to run: parts that a device takes one by one it may refuse together.

    Returns
    -------
    list
        Segments that their devices refuse, with the reasons.
    """
    by_id = {device.id: device for device in devices}
    refused = []
    for segment in segments:
        candidate = Candidate(f"segment {segment.sha256}", partial(Path.joinpath, folder, segment.file))
        try:
            verdict = capabilities.supports(candidate, by_id[segment.device])
        except EngineMissing:
            continue
        if not verdict.ok:
            refused.append((segment, verdict.reason))
    capabilities.save()
    return refused


def described(segment: Segment) -> str:
    """A segment in a sentence: its number and its first nodes."""
    nodes = ", ".join(segment.nodes[:_NAMED]) + (", ..." if len(segment.nodes) > _NAMED else "")
    return f"segment {segment.index} ({nodes})"


@dataclass
class Pieces:
    """Tasks as ONNX files, all written when the first is wanted: a model whose verdicts are known costs no disk."""

    graph: Graph
    members: Mapping[str, tuple[str, ...]]
    folder: Path
    _segments: dict[str, Segment] = field(default_factory=dict)
    _whole: Path | None = None

    def of(self, task: str) -> Path:
        """The file of one task."""
        return self.folder / "parts" / self._segment(task).file

    def inputs(self, task: str) -> tuple[TensorSpec, ...]:
        """What the file of one task takes."""
        return self._segment(task).inputs

    def has_plain_borders(self, task: str) -> bool:
        """Whether all that one task takes and gives are tensors of known rank."""
        nodes = [self.graph.nodes[name] for name in self.members[task]]
        values = chain.from_iterable(chain(used_values(node), node.outputs) for node in nodes)
        return all(v.shape is not None and isinstance(v.type, (ir.TensorType, NoneType)) for v in values if v.name)

    def _segment(self, task: str) -> Segment:
        if not self._segments:
            aside = self.folder / "parts"
            aside.mkdir()
            pieces = [Piece("", nodes) for nodes in self.members.values()]
            segments, _, _ = write_segments(self.graph, pieces, aside)
            self._segments = dict(zip(self.members, segments, strict=True))
        return self._segments[task]

    def whole(self) -> Path:
        """The file of all tasks together."""
        if self._whole is None:
            aside = self.folder / "whole"
            aside.mkdir()
            inside = set(chain.from_iterable(self.members.values()))
            piece = Piece("", tuple(name for name in self.graph.nodes if name in inside))
            segments, _, _ = write_segments(self.graph, [piece], aside)
            self._whole = aside / segments[0].file
        return self._whole


def _ask(
    asked: Mapping[str, Candidate], pieces: Pieces, device: Device, capabilities: Capabilities
) -> Iterator[tuple[str, str]]:
    """Tasks that a device refuses, with its reasons."""
    verdicts = {task: capabilities.known(candidate, device) for task, candidate in asked.items()}
    unknown = [task for task, verdict in verdicts.items() if verdict is None]
    try:
        if len(unknown) == len(asked) > 1 and not capabilities.ask(pieces.whole(), device):
            # What a device computes inside a model it may yet refuse at a border: lists, tensors of unknown rank.
            for task in filter(pieces.has_plain_borders, unknown):
                capabilities.learn(asked[task], device)
        for task in unknown:
            verdicts[task] = capabilities.supports(asked[task], device)
    except EngineMissing:
        pass
    for task, verdict in verdicts.items():
        if verdict is not None and not verdict.ok:
            yield task, verdict.reason


def candidate(graph: Graph, nodes: tuple[str, ...], model: Callable[[], Path]) -> Candidate:
    """Nodes as a question to a device; nodes with equal operators, attributes, dtypes and shapes have the same key.

    Parameters
    ----------
    graph : Graph
    nodes : tuple of str
    model : callable
        Where they lie as a model of their own.
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
    label = " ".join(described[: 1 + _KEY_SHAPES]) + (" ..." if len(described) > 1 + _KEY_SHAPES else "")
    shapes = [spec_of(value).shape for value in values if value.shape is not None]
    return Candidate(
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
    """The bytes of a constant that may steer an operator; a mark for one that is only weight; nothing otherwise."""
    name = str(value.name)
    if name in graph.folded:
        return graph.folded[name].tobytes()
    tensor = graph.constants.get(name)
    if tensor is None:
        return b""
    return tensor.tobytes() if tensor.nbytes <= _SMALL_BYTES and tensor.dtype != ir.DataType.STRING else b"weight"
