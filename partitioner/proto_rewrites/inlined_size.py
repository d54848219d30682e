"""Counts the nodes that a model has once its functions are inlined: few that call each other can be 2^30 nodes."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from trisect.runtime.errors import InvalidModel
from trisect.runtime.tensors.onnx_tensors import bodies_of

_NODES_MAX, _FACTOR = 20_000, 20
"""Nodes that a model may have after inlining, and how many more for each node in the file."""
_DEPTH_MAX = 100

_Key = tuple[str, str, str]


def check_inlined_size(model: onnx.ModelProto, name: str) -> None:
    """Check that a model stays of a reasonable size when its functions are inlined.

    Raises
    ------
    InvalidModel
        When it does not, or when a function calls itself.
    """
    if not model.functions:
        return
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    counts: dict[_Key, int] = {}

    def count(nodes: Iterable[onnx.NodeProto], callers: tuple[_Key, ...]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            if key not in functions:
                total += 1
            else:
                if key in callers or len(callers) >= _DEPTH_MAX:
                    problem = "calls itself" if key in callers else f"is nested more than {_DEPTH_MAX} deep"
                    raise InvalidModel(f"{name}: function {node.op_type!r} {problem}", remedy="export the model again")
                if key not in counts:
                    counts[key] = count(functions[key].node, (*callers, key))
                total += counts[key]
            total += sum(count(body.node, callers) for body in bodies_of(node))
        return total

    in_file = _nodes_in_file(model.graph) + sum(map(_nodes_in_file, model.functions))
    limit = _NODES_MAX + _FACTOR * in_file
    inlined = count(model.graph.node, ())
    if inlined > limit:
        raise InvalidModel(
            f"{name}: its {in_file} nodes become {inlined:.3g} when functions are inlined, more than {limit}",
            remedy="do not trust this model",
        )


def _nodes_in_file(graph: onnx.GraphProto | onnx.FunctionProto) -> int:
    bodies = [body for node in graph.node for body in bodies_of(node)]
    return len(graph.node) + sum(map(_nodes_in_file, bodies))
