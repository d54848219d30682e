"""Cost terms and costs of a model's operators in context: fused with neighbours, in the layouts that these leave."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Collection, Sequence
from dataclasses import replace

from trisect.profiles.costmodel.cost_terms import CostTerm
from trisect.profiles.costmodel.costs import Costs
from trisect.profiles.costmodel.device_model import DeviceModel
from trisect.profiles.costmodel.segment_terms import boundary_terms, node_terms, segment_terms
from trisect.runtime.device import Device
from trisect.runtime.plans.plan_parts import Segment
from trisect.scheduler.problem.boundary_costs import BoundaryCost, BoundarySides
from trisect.scheduler.problem.task_graph import TaskGraph

from ..graph.model_graph import Graph
from .channels_last import channels_last_devices, channels_last_tensors


def segment_terms_of(graph: Graph, nodes: Sequence[str], channels_last: Collection[str] = ()) -> tuple[CostTerm, ...]:
    """Return the cost terms of some nodes as one segment; `nodes` in the model's order, others as `segment_terms`."""
    instances = [graph.op_instances[node] for node in nodes if node in graph.op_instances]
    return tuple(segment_terms(instances, boundary_outputs(graph, nodes), channels_last))


def measurement_key(graph: Graph, devices: Sequence[Device]) -> str:
    """Return a key for what is measured of a model, at its shapes, on devices of this machine."""
    where = [text for d in devices for text in (d.id, d.name, d.engine_version)]
    parts = [graph.sha256, platform.node(), *where, *map(str, sorted(graph.shapes.items()))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def nhwc_tensors(segment: Segment) -> list[str]:
    """Return the tensors that enter or leave a segment in NHWC layout."""
    return [spec.name for spec in (*segment.inputs, *segment.outputs) if spec.layout == "NHWC"]


def node_terms_of(graph: Graph, nodes: Sequence[str]) -> dict[str, list[CostTerm]]:
    """Return the cost terms of each node of a segment; those of its boundary are left out."""
    instances = graph.op_instances
    return node_terms([instances[n] for n in nodes if n in instances], boundary_outputs(graph, nodes))


def boundary_outputs(graph: Graph, nodes: Sequence[str]) -> list[str]:
    """Return the tensors that some nodes compute and other nodes, or the caller, read."""
    inside = set(nodes)
    model_outputs = {str(value.name) for value in graph.model.graph.outputs}
    return [
        str(value.name)
        for name in nodes
        for value in graph.nodes[name].outputs
        if value.name in model_outputs or any(str(user.name) not in inside for user, _ in value.uses())
    ]


def fitted_task_times_s(graph: Graph, tasks: TaskGraph, costs: Costs) -> dict[str, dict[str, float]]:
    """Return the seconds of each task, as part of the whole model, on each device that has a fitted model.

    Returns
    -------
    dict
        Task -> device id -> seconds. Control flow is left out: its body is priced by its own operators.
    """
    instances = graph.op_instances
    terms = node_terms_of(graph, list(instances))
    priced = {
        task: [term for node in nodes for term in terms[node]]
        for task, nodes in tasks.nodes(data="nodes")
        if not any(instances[node].is_control_flow for node in nodes)
    }
    columns = {device_id: _sums_s(model, list(priced.values())) for device_id, model in costs.models.items()}
    scales = {device_id: costs.scales.get(device_id, 1.0) for device_id in columns}
    return {
        task: {device_id: scales[device_id] * times_s[row] for device_id, times_s in columns.items()}
        for row, task in enumerate(priced)
    }


def boundary_costs(graph: Graph, devices: Sequence[Device], costs: Costs) -> dict[str, BoundaryCost]:
    """Return what it costs segments that a tensor leaves or enters them; zero on devices without a fitted model.

    Returns
    -------
    dict
        Tensor -> seconds on each of `devices`. An image that crosses in NHWC layout is not reordered.
    """
    crossed = boundary_terms(list(graph.op_instances.values()))
    nhwc_devices = channels_last_devices(devices)
    nhwc_columns = frozenset(i for i, device in enumerate(devices) if device.id in nhwc_devices)
    images = channels_last_tensors(graph, crossed) if nhwc_columns else frozenset()
    sides = [terms for crossing in crossed.values() for terms in (crossing.leave, crossing.enter)]
    sides += [terms for tensor in sorted(images) for terms in crossed[tensor].in_nhwc]
    rows = iter(zip(*(_sums_s(costs.models.get(device.id), sides) for device in devices), strict=True))
    as_they_are = {tensor: BoundaryCost(next(rows), next(rows)) for tensor in crossed}
    in_nhwc = {tensor: BoundarySides(next(rows), next(rows)) for tensor in sorted(images)}
    return {
        tensor: replace(cost, in_nhwc=in_nhwc[tensor], nhwc_columns=nhwc_columns) if tensor in images else cost
        for tensor, cost in as_they_are.items()
    }


def _sums_s(model: DeviceModel | None, groups: Sequence[Sequence[CostTerm]]) -> list[float]:
    """Return the seconds of each group of cost terms, all predicted in one call; zero without a fitted model."""
    if model is None:
        return [0.0] * len(groups)
    times = iter(model.times_s([term for group in groups for term in group]).tolist())
    return [sum(next(times) for _ in group) for group in groups]
