"""Relatives of published placement graphs: what a strategy is worth must not hang on the very numbers of one file.

Each function takes the content of a device-placement file (see `trisect.scheduler.benchmarks.offload_format`) and
returns another. Renamed and scaled graphs have the same optimum; disturbed ones, other numbers of accelerators and
training graphs are new problems of the same family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from random import Random
from typing import Any

Content = dict[str, Any]
_BACKWARD_WORK = 2.0
"""A layer's gradients by its inputs and by its weights are two products where the forward pass has one."""
SCALE = 7.3


def renamed(content: Content, seed: int = 0) -> Content:
    """Other ids, nodes and edges in another order: the same problem."""
    random = Random(seed)
    found = deepcopy(content)
    names = list(range(1000, 1000 + len(found["nodes"])))
    random.shuffle(names)
    new = {node["id"]: name for node, name in zip(found["nodes"], names, strict=True)}
    for node in found["nodes"]:
        node["id"] = new[node["id"]]
    for edge in found["edges"]:
        edge["sourceId"], edge["destId"] = new[edge["sourceId"]], new[edge["destId"]]
    random.shuffle(found["nodes"])
    random.shuffle(found["edges"])
    return found


def scaled(content: Content, factor: float = SCALE) -> Content:
    """Another unit of time: the same problem, every value times the factor."""
    return _priced(content, lambda: factor)


def disturbed(content: Content, seed: int = 0, spread: float = 0.3) -> Content:
    """Every cost a little different, each by a factor of its own."""
    random = Random(seed)
    return _priced(content, lambda: 1 + random.uniform(-spread, spread))


def with_accelerators(content: Content, count: int) -> Content:
    """Another number of accelerators."""
    return {**deepcopy(content), "maxFPGAs": count}


def training(content: Content, seed: int = 0, orphans: float = 0.0) -> Content:
    """Forward and backward pass: per node its gradient, on the same device, waiting for those behind it.

    Parameters
    ----------
    content : dict
        Of an inference graph.
    seed : int
    orphans : float
        Part of the gradients that need not be where their node is.
    """
    random = Random(seed)
    found = deepcopy(content)
    ids = [node["id"] for node in content["nodes"]]
    partner = {name: max(ids) + 1 + i for i, name in enumerate(ids)}
    output = {edge["sourceId"]: edge["cost"] for edge in content["edges"]}
    colours = [c for node in content["nodes"] if (c := node.get("colorClass")) is not None]
    for colour, node in enumerate(list(found["nodes"]), max(colours, default=0) + 1):
        if node.get("colorClass") is None:
            node["colorClass"] = colour
        gradient = {
            **node,
            "id": partner[node["id"]],
            "cpuLatency": node["cpuLatency"] * _BACKWARD_WORK,
            "fpgaLatency": node["fpgaLatency"] * _BACKWARD_WORK,
            "size": 0.0,
            "isBackwardNode": 1,
        }
        if random.random() < orphans:
            del gradient["colorClass"]
        found["nodes"].append(gradient)
    for edge in content["edges"]:
        found["edges"].append(
            {
                "sourceId": partner[edge["destId"]],
                "destId": partner[edge["sourceId"]],
                "cost": output.get(edge["destId"], edge["cost"]),
            }
        )
    sources = {edge["sourceId"] for edge in content["edges"]}
    for name in ids:
        if name not in sources:  # the loss: where the forward pass ends, the backward one begins
            found["edges"].append({"sourceId": name, "destId": partner[name], "cost": 0.0})
    return found


VARIANTS: Mapping[str, Callable[[Content], Content]] = {
    "renamed": renamed,
    "scaled": scaled,
    "disturbed": disturbed,
    "fewer": lambda content: with_accelerators(content, max(1, content["maxFPGAs"] // 2)),
    "more": lambda content: with_accelerators(content, content["maxFPGAs"] * 2),
    "training": training,
}


def _priced(content: Content, factor: Callable[[], float]) -> Content:
    found = deepcopy(content)
    for node in found["nodes"]:
        node["cpuLatency"], node["fpgaLatency"] = node["cpuLatency"] * factor(), node["fpgaLatency"] * factor()
    # One tensor has one cost, whoever reads it.
    of_source: dict[Any, float] = {}
    for edge in found["edges"]:
        edge["cost"] *= of_source.setdefault(edge["sourceId"], factor())
    return found
