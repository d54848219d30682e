"""A plan of a real model, in two halves on two engines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.partitioner.small_models import FakeCosts, split
from trisect.partitioner.graph.model_graph import Graph
from trisect.runtime.device import Device
from trisect.runtime.engines import find_devices
from trisect.runtime.plans.plan import Plan


def halves(path: Path, shapes: Mapping[str, int], folder: Path, on: tuple[Device, Device] | None = None) -> Plan:
    """The model's nodes in order: the first half on one device, the rest on the other."""
    first, second = on or find_devices("cpu:ort,cpu:openvino")
    nodes = list(Graph.read(path, shapes).nodes)
    force = {name: (first if number < len(nodes) // 2 else second).id for number, name in enumerate(nodes)}
    return split(path, (first, second), FakeCosts(), "heft", "latency", shapes, 0, folder, constraints={"force": force})
