"""A plan's segments are predicted as wholes, and the interval says how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import pytest

from tests.partitioner import small_models
from tests.partitioner.small_models import CPU, GPU, FakeCosts
from trisect.partitioner.costs.model_costs import segment_terms_of
from trisect.partitioner.costs.plan_prediction import PlanPrediction, predict_plan
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.segments.convex_cut import cut
from trisect.partitioner.segments.pieces import pieces_of_parts
from trisect.profiles.costmodel.device_model import DeviceModel
from trisect.profiles.costmodel.regression import Regression
from trisect.profiles.stored.segment_store import MeasuredSegment
from trisect.scheduler.problem.problem import Part
from trisect.scheduler.simulation.part_times import part_time_s, placement_of


@dataclass(frozen=True)
class ModelledCosts(FakeCosts):
    fitted: Mapping[str, DeviceModel] = field(default_factory=dict)

    @property
    def is_measured(self) -> bool:
        return True

    @property
    def models(self) -> Mapping[str, DeviceModel]:
        return self.fitted

    def with_models(self, models: Mapping[str, DeviceModel]) -> Self:
        return replace(self, fitted={**self.fitted, **models})


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return Graph.read(small_models.mlp(tmp_path / "m.onnx", layers=4), {"batch": 3})


def predicted(graph: Graph, fitted: Mapping[str, DeviceModel]) -> tuple[PlanPrediction, list[Part]]:
    inputs = small_models.inputs_of(graph, (CPU, GPU), ModelledCosts(fitted=fitted))
    problem, tasks = inputs.problem, list(inputs.tasks)
    parts = cut(problem.graph, {t: (CPU, GPU)[2 * i // len(tasks)].id for i, t in enumerate(tasks)})
    pieces = pieces_of_parts(graph, problem.graph, parts)
    return predict_plan(inputs, problem, parts, pieces, ()), parts


def test_a_segment_takes_what_its_own_terms_take(graph: Graph) -> None:
    model = DeviceModel(Regression())
    prediction, parts = predicted(graph, {CPU.id: model})
    modelled, other = parts
    own_s = model.time_s(segment_terms_of(graph, list(graph.nodes)[:6]))
    assert part_time_s(prediction.problem, modelled, placement_of(parts)) == pytest.approx(own_s)
    assert other not in prediction.problem.known_parts_s  # no cost model: the sum of its tasks


def test_a_run_takes_longer_than_its_segments(graph: Graph) -> None:
    prediction, parts = predicted(graph, {})
    (inner_s, _), (value, schedule) = (prediction.evaluate(parts, overhead_s) for overhead_s in (0.0, 0.25))
    assert value == schedule.latency_s == pytest.approx(inner_s + 0.25)
    assert schedule.events[-1].end_s == pytest.approx(inner_s)
    throughput = replace(prediction, problem=replace(prediction.problem, objective="throughput"))
    assert throughput.evaluate(parts, 0.25)[0] == throughput.evaluate(parts, 0.0)[0]


def test_measuring_the_model_narrows_the_interval(graph: Graph) -> None:
    model = DeviceModel(Regression())
    terms = segment_terms_of(graph, list(graph.nodes))
    known = model.refined([MeasuredSegment(terms, 2 * model.time_s(terms), 0.0, "plan")])
    wide, _ = predicted(graph, {CPU.id: model, GPU.id: model})
    narrow, _ = predicted(graph, {CPU.id: known, GPU.id: known})
    unmodelled, _ = predicted(graph, {})
    assert narrow.deviation < 0.5 * wide.deviation
    assert unmodelled.deviation > 0.2
    low, high = narrow.interval(2.0) or (0.0, 0.0)
    assert low < 2.0 < high
    assert low * high == pytest.approx(4.0)
