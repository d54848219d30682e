"""Images that cross between segments with their channels last, where that is how they lie at both sides.

OpenVINO's CPU plugin reorders each image that leaves a segment, and again where it enters the next: 10 of 74 ms of
rapidocr's detector in eight segments. Handed over as they lie, the same segments took 64 ms (the whole model 59).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from onnx import helper

from trisect.profiles.costmodel.segment_terms import crossings
from trisect.runtime.device import Device
from trisect.runtime.engines import keeps_channels_last
from trisect.runtime.tensors.layouts import TO_NCHW, TO_NHWC

from ..graph.model_graph import Graph, spec_of
from ..graph.op_instances import works

if TYPE_CHECKING:
    from .segment_writer import Piece

_DTYPES = ("float32", "float16", "bfloat16")
_INNER_SUFFIX = ":NCHW"
"""Of an image's name inside a segment: the boundary tensor has the model's name, whatever its layout."""


def crossing_images(graph: Graph, pieces: Sequence[Piece], devices: Sequence[Device]) -> frozenset[str]:
    """Tensors that whoever makes them, and all that read them, have with their channels last.

    Parameters
    ----------
    graph : Graph
    pieces : sequence of Piece
        What it is cut into.
    devices : sequence of Device
        Those of the pieces; their engines are asked how they keep images.
    """
    if len(pieces) < 2:
        return frozenset()
    used = {piece.device for piece in pieces}
    alike = {device.id for device in devices if device.id in used and keeps_channels_last(device)}
    home = {node: number for number, piece in enumerate(pieces) for node in piece.nodes}
    if sum(piece.device in alike for piece in pieces) < 2:
        return frozenset()
    outputs = {str(value.name) for value in graph.model.graph.outputs}
    images = {name for name, crossing in crossings(list(works(graph).values())).items() if crossing.is_image}

    def crosses(value: ir.Value, maker: int) -> bool:
        readers = {home.get(str(node.name)) for node, _ in value.uses()} - {maker}
        return bool(readers) and all(number is not None and pieces[number].device in alike for number in readers)

    found = []
    for node, number in home.items():
        if pieces[number].device not in alike:
            continue
        for value in graph.nodes[node].outputs:
            name = str(value.name)
            if name in images and name not in outputs and _is_fixed(value) and crosses(value, number):
                found.append(name)
    return frozenset(found)


def turn(model: onnx.GraphProto, inputs: Collection[str], outputs: Collection[str]) -> None:
    """Have a segment take and give images with their channels last, in place.

    Parameters
    ----------
    model : GraphProto
        Its nodes; what it takes and gives is declared elsewhere.
    inputs, outputs : collection of str
        Those images, by their names in the model.
    """
    inner_names = {name: f"{name}{_INNER_SUFFIX}" for name in (*inputs, *outputs)}
    _rename(model.node, inner_names)
    entering = [
        helper.make_node("Transpose", [name], [inner_names[name]], f"{name} to NCHW", perm=TO_NCHW) for name in inputs
    ]
    leaving = [
        helper.make_node("Transpose", [inner_names[name]], [name], f"{name} to NHWC", perm=TO_NHWC) for name in outputs
    ]
    nodes = [*entering, *model.node, *leaving]
    del model.node[:]
    model.node.extend(nodes)


def _rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Rename tensors in nodes and in the bodies of control flow, in place."""
    if not names:
        return
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _rename(body.node, names)
                for output in body.output:  # a body may return a tensor of the outer graph
                    output.name = names.get(output.name, output.name)


def _is_fixed(value: ir.Value) -> bool:
    spec = spec_of(value)
    return spec.dtype in _DTYPES and all(isinstance(size, int) for size in spec.shape)
