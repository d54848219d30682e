"""Keeps the state of a model on one device: what a run computes for the next one, such as a KV cache.

A stateful tensor is an output of which the next run takes the value as an input. Where the nodes that read the input
and the node that computes the output are on one device, the state never crosses a boundary: its cost there is zero. A
placement that separates them would move the whole state at every run, and is infeasible.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from trisect.runtime.errors import InvalidInput
from trisect.runtime.tensors.tensor_spec import TensorSpec
from trisect.scheduler.problem.task_graph import TaskGraph

from ..graph.model_graph import Graph
from .selectors import merged_groups
from .task_grouping import task_of_node


def state_groups(graph: Graph, tasks: TaskGraph, state: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of tasks that share a stateful tensor, and therefore run on one device.

    Parameters
    ----------
    tasks : networkx.DiGraph
        Tasks of the graph.
    state : mapping of str to str
        Input of the model -> output of which the next run takes the value.

    Raises
    ------
    InvalidInput
        For an input or output that the model does not have, a pair of different dtypes or ranks, and an output that
        is the state of two inputs.
    """
    if not state:
        return ()
    inputs, outputs = ({spec.name: spec for spec in specs} for specs in (graph.inputs, graph.outputs))
    sources: dict[str, str] = {}
    for past, present in state.items():
        _check_pair(_named(past, inputs, "input"), _named(present, outputs, "output"))
        if present in sources:
            raise InvalidInput(
                f"the output {present!r} is the state of the inputs {sources[present]!r} and {past!r}",
                remedy="name one output for each input",
            )
        sources[present] = past
    owner = task_of_node(tasks)
    readers: dict[str, list[str]] = {name: [] for name in inputs}
    for value in graph.model.graph.inputs:
        readers[str(value.name)] = [str(node.name) for node in value.consumers()]
    makers = {str(v.name): str(maker.name) for v in graph.model.graph.outputs if (maker := v.producer()) is not None}
    groups = []
    for past, present in state.items():
        nodes = [*readers[past], *([makers[present]] if present in makers else [])]
        groups.append([owner[node] for node in nodes if node in owner])
    return merged_groups(groups)


def _named(name: str, specs: Mapping[str, TensorSpec], what: str) -> TensorSpec:
    if name in specs:
        return specs[name]
    raise InvalidInput(f"the model has no {what} {name!r} to keep as state", remedy=_remedy(name, specs))


def _remedy(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.4)
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(sorted(known)[:3])}"


def _check_pair(past: TensorSpec, present: TensorSpec) -> None:
    if past.dtype != present.dtype or len(past.shape) != len(present.shape):
        raise InvalidInput(
            f"the output {present.name!r} ({present.dtype}, {len(present.shape)} dimensions) cannot be the state of "
            f"the input {past.name!r} ({past.dtype}, {len(past.shape)} dimensions)",
            remedy="pair tensors of the same dtype and rank",
        )
