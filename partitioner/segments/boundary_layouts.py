"""Finds images that may cross segment boundaries in NHWC layout, and adds the transposes for it.

OpenVINO's CPU plugin keeps images in NHWC layout, and reorders each image that leaves a segment, and again where it
enters the next: 10 of 74 ms of rapidocr's detector in eight segments. Handed over in NHWC layout, the same segments
took 64 ms (the whole model 59).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx
import onnx_ir as ir
from onnx import helper

from trisect.profiles.costmodel.segment_terms import boundary_terms
from trisect.runtime.device import Device
from trisect.runtime.tensors.onnx_tensors import bodies_of
from trisect.runtime.tensors.tensor_spec import TO_NCHW, TO_NHWC

from ..costs.channels_last import channels_last_devices, channels_last_tensors
from ..graph.model_graph import Graph
from .pieces import Piece

_INNER_SUFFIX = ":NCHW"
"""Of an image's name inside a segment: the boundary tensor has the model's name, whatever its layout."""


def nhwc_boundaries(graph: Graph, pieces: Sequence[Piece], devices: Sequence[Device]) -> frozenset[str]:
    """Return the tensors that the segments at both sides of a boundary keep in NHWC layout.

    Parameters
    ----------
    pieces : sequence of Piece
        Its segments.
    devices : sequence of Device
        Those of the pieces; their engines state which layout they use.
    """
    if len(pieces) < 2:
        return frozenset()
    used = {piece.device for piece in pieces}
    nhwc_devices = channels_last_devices([device for device in devices if device.id in used])
    if sum(piece.device in nhwc_devices for piece in pieces) < 2:
        return frozenset()
    home = {node: number for number, piece in enumerate(pieces) for node in piece.nodes}
    images = channels_last_tensors(graph, boundary_terms(list(graph.op_instances.values())))

    def crosses(value: ir.Value, maker: int) -> bool:
        readers = {home.get(str(node.name)) for node, _ in value.uses()} - {maker}
        return bool(readers) and all(n is not None and pieces[n].device in nhwc_devices for n in readers)

    return frozenset(
        name
        for node, number in home.items()
        if pieces[number].device in nhwc_devices
        for value in graph.nodes[node].outputs
        if (name := str(value.name)) in images and crosses(value, number)
    )


def add_layout_transposes(model: onnx.GraphProto, inputs: Collection[str], outputs: Collection[str]) -> None:
    """Add transposes to a segment so that it reads and returns images in NHWC layout, in place.

    Parameters
    ----------
    model : GraphProto
        Its nodes; inputs and outputs are declared by the caller.
    inputs, outputs : collection of str
        The images, by their names in the model.
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
        for body in bodies_of(node):
            _rename(body.node, names)
            for output in body.output:  # a body may return a tensor of the outer graph
                output.name = names.get(output.name, output.name)
