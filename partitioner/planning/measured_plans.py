"""Caches the plans that were chosen by running candidates: the same request gives the same plan, byte for byte.

A measurement never gives the same times twice, so the chosen plan itself is stored, with what was measured; its segment
files are written again from the model, and have to be the same.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import replace
from pathlib import Path

import msgspec

from trisect.runtime.core_affinity import cores
from trisect.runtime.errors import StorageFailed
from trisect.runtime.files.cache_files import not_cached, read_cache, write_cache
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_checks import is_file_name
from trisect.runtime.scratch_folder import ScratchFolder

from ..graph.model_graph import Graph
from ..segments.boundary_layouts import nhwc_boundaries
from ..segments.pieces import Piece
from ..segments.segment_writer import write_segments
from .plan_request import PlanRequest

FOLDER = "measured-plans"
"""Beside the measured times of whole models."""
_SCHEMA = 1
_PLANS_MAX = 200


class _MeasuredPlan(msgspec.Struct):
    """The content of a file."""

    budget_s: float | None
    """Time that was given; None = no limit."""
    plan: Plan


class MeasuredPlans:
    """The plans that were chosen for one request.

    Parameters
    ----------
    folder : Path
    request : PlanRequest
    graph : Graph
        The model.
    """

    def __init__(self, folder: Path, request: PlanRequest, graph: Graph) -> None:
        parts = (
            _SCHEMA, platform.node(), len(cores()), graph.sha256, sorted(graph.shapes.items()), request.devices,
            request.strategy, request.objective, request.constraints.plain(), request.time_limit_s, request.seed,
            request.refine, request.verify, request.tolerance,
        )  # fmt: skip
        self._graph = graph
        key = hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()
        self._path = folder / f"{key}.json"

    def restore(self, out_folder: Path, budget_s: float | None) -> Plan | None:
        """Write the plan of an earlier measurement that had no less time; None where there is none."""
        stored = read_cache(self._path, _MeasuredPlan, "the plan", "plans run again")
        if stored is None:
            return None
        plan, graph = stored.plan, self._graph
        pieces = [Piece(segment.device, segment.nodes) for segment in plan.segments]
        unknown = {node for piece in pieces for node in piece.nodes} - set(graph.nodes)
        is_shorter = stored.budget_s is not None and (budget_s is None or stored.budget_s < budget_s)
        if is_shorter or unknown or not all(is_file_name(s.file) for s in plan.segments):
            return None
        with ScratchFolder("restored") as folder:
            segments, transfers, weights = write_segments(
                graph, pieces, folder, nhwc_boundaries(graph, pieces, plan.devices)
            )
            if (segments, transfers, weights) != (plan.segments, plan.transfers, plan.weights):
                return None  # another version wrote them
            return replace(plan, folder=os.fspath(folder)).save(out_folder)

    def add(self, plan: Plan, budget_s: float | None) -> None:
        """Store a plan; a cache that cannot be written does not fail a split."""
        stored = _MeasuredPlan(budget_s, replace(plan, folder="", verified=None))
        write_cache(self._path, msgspec.json.encode(stored), "the measured plan")
        try:
            oldest_last = sorted(self._path.parent.glob("*.json"), key=lambda path: -path.stat().st_mtime)
            for path in oldest_last[_PLANS_MAX:]:
                path.unlink(missing_ok=True)
        except OSError as error:
            not_cached("the measured plan", StorageFailed(str(error)))
