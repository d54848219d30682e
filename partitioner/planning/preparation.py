"""Reads a model and collects everything known of it and of the devices before placement."""

from __future__ import annotations

from dataclasses import replace

from trisect.runtime.plans.plan_parts import NARROW_NUMBERS
from trisect.runtime.progress import Progress, no_progress

from ..costs.calibration import calibrated
from ..costs.cut_measurement import CUTS_SUFFIX, with_measured_cuts
from ..graph.model_graph import Graph
from ..problem.constraints import SPECIAL_FLOATS
from ..problem.device_support import refusals
from ..problem.problem_builder import ProblemInputs, weights_bytes
from ..problem.selectors import named_node_devices
from ..problem.task_grouping import task_graph
from ..problem.value_ranges import value_ranges
from .plan_request import DeviceData, PlanRequest


def prepare(
    request: PlanRequest,
    data: DeviceData,
    progress: Progress = no_progress,
    graph: Graph | None = None,
    *,
    plans_run: bool = False,
) -> ProblemInputs:
    """Read a model, ask the devices which operators they support, and calibrate measured costs on the model.

    Parameters
    ----------
    graph : Graph, optional
        The model, where it has been read.
    plans_run : bool
        Whether plans of the request run afterwards, which tell as much as cuts: fewer of those are measured then.

    Raises
    ------
    InvalidModel, UnsupportedModel, UnsupportedOperator, InvalidInput
        As `Graph.read` and `ProblemInputs.times_s`.
    """
    graph = graph or Graph.read(request.model, request.shapes)
    tasks = task_graph(graph, named=named_node_devices(graph, request.constraints, request.devices, request.absent))
    capabilities = data.capabilities
    assume = request.constraints.assume
    ranges = value_ranges(graph, narrow=NARROW_NUMBERS in assume, finite=SPECIAL_FLOATS not in assume)
    refused = {}
    if capabilities is not None:
        refused = refusals(graph, tasks, request.devices, capabilities, progress, ranges)
    inputs = ProblemInputs(
        graph,
        tasks,
        request.devices,
        data.costs,
        objective=request.objective,
        constraints=request.constraints,
        refused=refused,
        power_w=data.power_w,
        absent=request.absent,
        notes=data.notes,
    )
    if data.calibrations is not None and len(request.devices) > 1:
        inputs = calibrated(inputs, data.calibrations, progress, data.probes_s)
        inputs = with_measured_cuts(
            inputs, data.calibrations.with_suffix(CUTS_SUFFIX), progress, data.probes_s, are_few=plans_run
        )
    return replace(inputs, weights_bytes=weights_bytes(graph, inputs.tasks))
