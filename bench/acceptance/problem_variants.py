"""Variants of published placement graphs, so that a strategy is not judged by the numbers of one file alone.

Each function takes the content of a device-placement file (see `trisect.scheduler.benchmarks.offload_format`) and
returns another. Renamed and scaled graphs have the same optimum; perturbed ones, other numbers of accelerators and
training graphs are new problems of the same family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from random import Random
from typing import Any

Content = dict[str, Any]
_BACKWARD_FLOPS_RATIO = 2.0
"""The gradients by inputs and by weights are two products where the forward pass has one."""
SCALE = 7.3


def renamed(content: Content, seed: int = 0) -> Content:
    """Return the same problem with other ids, and nodes and edges in another order."""
    random = Random(seed)
    changed = deepcopy(content)
    names = list(range(1000, 1000 + len(changed["nodes"])))
    random.shuffle(names)
    new = {node["id"]: name for node, name in zip(changed["nodes"], names, strict=True)}
    for node in changed["nodes"]:
        node["id"] = new[node["id"]]
    for edge in changed["edges"]:
        edge["sourceId"], edge["destId"] = new[edge["sourceId"]], new[edge["destId"]]
    random.shuffle(changed["nodes"])
    random.shuffle(changed["edges"])
    return changed


def scaled(content: Content, factor: float = SCALE) -> Content:
    """Return the same problem in another unit of time: every value times the factor."""
    return _with_costs(content, lambda: factor)


def perturbed(content: Content, seed: int = 0, spread: float = 0.3) -> Content:
    """Return the graph with each cost multiplied by a random factor."""
    random = Random(seed)
    return _with_costs(content, lambda: 1 + random.uniform(-spread, spread))


def with_accelerators(content: Content, count: int) -> Content:
    """Return the graph with another number of accelerators."""
    return {**deepcopy(content), "maxFPGAs": count}


def training(content: Content, seed: int = 0, orphans: float = 0.0) -> Content:
    """Return the graph with a backward pass: for each node a gradient node on the same device, in reverse order.

    Parameters
    ----------
    content : dict
        An inference graph.
    seed : int
    orphans : float
        Share of the gradients that may be on another device than their node.
    """
    random = Random(seed)
    changed = deepcopy(content)
    ids = [node["id"] for node in content["nodes"]]
    partner = {name: max(ids) + 1 + i for i, name in enumerate(ids)}
    output = {edge["sourceId"]: edge["cost"] for edge in content["edges"]}
    colours = [c for node in content["nodes"] if (c := node.get("colorClass")) is not None]
    for colour, node in enumerate(list(changed["nodes"]), max(colours, default=0) + 1):
        if node.get("colorClass") is None:
            node["colorClass"] = colour
        gradient = {
            **node,
            "id": partner[node["id"]],
            "cpuLatency": node["cpuLatency"] * _BACKWARD_FLOPS_RATIO,
            "fpgaLatency": node["fpgaLatency"] * _BACKWARD_FLOPS_RATIO,
            "size": 0.0,
            "isBackwardNode": 1,
        }
        if random.random() < orphans:
            del gradient["colorClass"]
        changed["nodes"].append(gradient)
    for edge in content["edges"]:
        changed["edges"].append(
            {
                "sourceId": partner[edge["destId"]],
                "destId": partner[edge["sourceId"]],
                "cost": output.get(edge["destId"], edge["cost"]),
            }
        )
    sources = {edge["sourceId"] for edge in content["edges"]}
    for name in ids:
        if name not in sources:  # the loss joins the end of the forward pass to the backward pass
            changed["edges"].append({"sourceId": name, "destId": partner[name], "cost": 0.0})
    return changed


VARIANTS: Mapping[str, Callable[[Content], Content]] = {
    "renamed": renamed,
    "scaled": scaled,
    "disturbed": perturbed,
    "fewer": lambda content: with_accelerators(content, max(1, content["maxFPGAs"] // 2)),
    "more": lambda content: with_accelerators(content, content["maxFPGAs"] * 2),
    "training": training,
}


def _with_costs(content: Content, factor: Callable[[], float]) -> Content:
    changed = deepcopy(content)
    for node in changed["nodes"]:
        node["cpuLatency"], node["fpgaLatency"] = node["cpuLatency"] * factor(), node["fpgaLatency"] * factor()
    # A tensor has one cost, whatever reads it.
    of_source: dict[Any, float] = {}
    for edge in changed["edges"]:
        edge["cost"] *= of_source.setdefault(edge["sourceId"], factor())
    return changed
