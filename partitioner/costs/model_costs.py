"""Costs of a model's operators where they stand: fused with their neighbours, in the layouts that these leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trisect.profiles.costmodel.cost_terms import Term
from trisect.profiles.costmodel.device_model import DeviceModel
from trisect.profiles.costmodel.op_instance import Work
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.profiles.costmodel.segment_terms import crossings, node_terms
from trisect.profiles.stored.profile_data import Profile
from trisect.runtime.device import Device
from trisect.scheduler.problem.boundary_costs import BoundaryCost
from trisect.scheduler.problem.task_graph import TaskGraph

from ..graph.model_graph import Graph
from ..graph.op_instances import leaving


class LearnedCosts(ProfileCosts):
    """Costs out of a profile, and for some devices out of models that know operators by their place.

    Parameters
    ----------
    profile : Profile
    models : mapping of str to DeviceModel
        By device id.
    """

    def __init__(self, profile: Profile, models: Mapping[str, DeviceModel]) -> None:
        super().__init__(profile)
        self.models = models


def task_times_s(
    graph: Graph, tasks: TaskGraph, known: Mapping[str, Work], costs: LearnedCosts
) -> dict[str, dict[str, float]]:
    """Seconds of each task, as part of the whole model, on each device that a model was learned of.

    Returns
    -------
    dict
        Task -> device id -> seconds. Control flow is left out: its body is priced by its own operators.
    """
    terms = node_terms(list(known.values()), leaving(graph, list(known)))
    found: dict[str, dict[str, float]] = {}
    for task, nodes in tasks.nodes(data="nodes"):
        inside = [known[node] for node in nodes if node in known]
        if any(work.is_control_flow for work in inside):
            continue
        made = [term for work in inside for term in terms[work.name]]
        found[task] = {
            device_id: costs.scales.get(device_id, 1.0) * float(model.times_s(made).sum())
            for device_id, model in costs.models.items()
        }
    return found


def borders_of(known: Mapping[str, Work], devices: Sequence[Device], costs: LearnedCosts) -> dict[str, BoundaryCost]:
    """What tensors cost segments that they leave or enter; nothing on devices that no model was learned of.

    Returns
    -------
    dict
        Tensor -> seconds on each of `devices`.
    """
    crossed = crossings(list(known.values()))
    sides = [terms for crossing in crossed.values() for terms in (crossing.leave, crossing.enter)]
    columns = [_sums_s(costs.models.get(device.id), sides) for device in devices]
    rows = iter(zip(*columns, strict=True))
    return {tensor: BoundaryCost(next(rows), next(rows)) for tensor in crossed}


def _sums_s(model: DeviceModel | None, groups: Sequence[Sequence[Term]]) -> list[float]:
    """Seconds of each group of summands, all asked for at once; nothing where no model was learned."""
    if model is None:
        return [0.0] * len(groups)
    times = iter(model.times_s([term for group in groups for term in group]).tolist())
    return [sum(next(times) for _ in group) for group in groups]
