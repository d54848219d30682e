"""Strategies that cut a model regardless of costs, so that cutting is tested."""

from __future__ import annotations

import random

from trisect.partitioner.strategies import strategy
from trisect.scheduler.problem.problem import Problem


@strategy("test-blocks")
def blocks(problem: Problem, count: str = "4") -> dict[str, str]:
    """Stretches of the graph's order, devices by turns."""
    ids, tasks = problem.device_ids, list(problem.graph)
    return {task: ids[i * int(count) // len(tasks) % len(ids)] for i, task in enumerate(tasks)}


@strategy("test-random")
def scattered(problem: Problem, seed: str = "0") -> dict[str, str]:
    """Every task on a device drawn by lot."""
    rng = random.Random(int(seed))
    return {task: rng.choice(problem.device_ids) for task in problem.graph}
