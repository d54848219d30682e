"""``random``: random task graphs of four shapes, for devices of a chosen heterogeneity.

All times are multiples of 2^-30 s and all bandwidths powers of two, so that sums are exact: a seed gives the same bits
on every machine.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import isfinite, isqrt
from random import Random
from typing import Literal, cast

from trisect.runtime.errors import InvalidInput
from trisect.scheduler.benchmarks.problem_file import (
    ProblemFile,
    ProblemFileDevice,
    ProblemFileEdge,
    ProblemFileLink,
    ProblemFileTask,
    to_tables,
)
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective

from . import WorkloadInstance, WorkloadRequest, workload
from ._shapes import SHAPES

_GRID = 2.0**30
_MEAN_S = 2.0**-10
"""Mean time of a task on an average device."""
_BANDWIDTH = 2.0**30
_AFFINITIES = (0.25, 0.5, 1.0, 2.0, 4.0)
_KINDS: tuple[Literal["cpu", "gpu", "npu"], ...] = ("cpu", "gpu", "npu")
_TASKS_MAX = 1_000_000
_ERDOS_RENYI_TASKS_MAX = 5_000


@dataclass(frozen=True)
class RandomGraphSettings:
    """Settings of a random graph; see `random_graphs`."""

    shape: str
    n: int
    width: int
    degree: float
    devices: int
    ccr: float
    heterogeneity: float
    affinity: float
    classes: int

    def key(self, seed: int) -> str:
        """Return the seed of the generator; it contains all settings, so that no two of them share random numbers."""
        return (
            f"{self.shape} {self.n} {self.width} {self.degree} {self.devices} {self.ccr} {self.heterogeneity} "
            f"{self.affinity} {self.classes} {seed}"
        )

    def check(self) -> None:
        """Raise InvalidInput for an unknown shape, or for numbers out of range."""
        if self.shape not in SHAPES:
            near = difflib.get_close_matches(self.shape, SHAPES, n=1)
            hint = f"did you mean random:{near[0]}? " if near else ""
            raise InvalidInput(f"no random graphs {self.shape!r}", remedy=f"{hint}there are: {', '.join(SHAPES)}")
        n_max = _ERDOS_RENYI_TASKS_MAX if self.shape == "erdos-renyi" else _TASKS_MAX
        is_valid = (
            1 <= self.n <= n_max
            and 0 <= self.width <= self.n
            and 1 <= self.devices <= 64
            and 1 <= self.classes <= 1000
            and 0 <= self.heterogeneity <= 2
            and 0 <= self.affinity <= 1
            and 0 <= self.ccr <= 1e6
            and isfinite(self.degree)
            and 1 <= self.degree <= self.n
        )
        if not is_valid:
            raise InvalidInput(
                f"invalid settings of random:{self.shape}",
                remedy=f"n is 1 to {n_max}, width at most n, degree 1 to n, devices 1 to 64, classes 1 to 1000, ccr 0 "
                "to 1e6, heterogeneity 0 to 2, affinity 0 to 1",
            )


@workload("random", provenance="random task graphs of known shapes and costs, drawn from a seed", licence="Apache-2.0")
def random_graphs(
    request: WorkloadRequest,
    *,
    n: int = 50,
    width: int = 0,
    degree: float = 2.0,
    devices: int = 3,
    ccr: float = 1.0,
    heterogeneity: float = 0.5,
    affinity: float = 0.5,
    classes: int = 4,
    rules: str = "tasks",
) -> Iterator[WorkloadInstance]:
    """Yield one graph for each seed.

    Parameters
    ----------
    request : WorkloadRequest
        Its argument is the shape: layered, fork-join, series-parallel or erdos-renyi.
    n : int
        Number of tasks.
    width : int
        Mean width; 0 for the square root of n.
    degree : float
        Mean number of successors; for fork-join the longest branch.
    devices : int
    ccr : float
        Mean time of a transfer over mean time of a task.
    heterogeneity : float
        From 0 (all devices equally fast at a task) to 2: times spread over ``1 +- heterogeneity / 2``.
    affinity : float
        From 0 to 1: by how much, up to a factor of 4, each device is faster or slower at each class of operators.
    classes : int
        Number of operator classes.
    rules : str
        ``tasks`` (each task on its own) or ``segments`` (cut and called as by the runtime).
    """
    settings = RandomGraphSettings(request.argument, n, width, degree, devices, ccr, heterogeneity, affinity, classes)
    settings.check()
    if rules not in ("tasks", "segments"):
        raise InvalidInput(f"random:{request.argument}: rules is {rules!r}", remedy="give tasks or segments")
    if rules == "tasks" and request.objective not in (None, "latency"):
        message = f"random:{request.argument} with rules=tasks has only the objective latency"
        raise InvalidInput(message, remedy="add rules=segments")
    convention = cast(Literal["tasks", "segments"], rules)
    for seed in request.seeds:
        make = partial(_make_problem, settings, seed, convention, request.objective)
        yield WorkloadInstance(f"seed {seed}", make, seed)


def _make_problem(
    settings: RandomGraphSettings, seed: int, convention: Literal["tasks", "segments"], objective: Objective | None
) -> Problem:
    file = _draw(Random(settings.key(seed)), settings)
    return Problem.from_tables(to_tables(_with_rules(file, convention), f"seed {seed}", objective))


def _draw(random: Random, settings: RandomGraphSettings) -> ProblemFile:
    edges = SHAPES[settings.shape](random, settings.n, settings.width or isqrt(settings.n), settings.degree)
    factors = [
        [_AFFINITIES[int(random.random() * len(_AFFINITIES))] for _ in range(settings.devices)]
        for _ in range(settings.classes)
    ]
    tasks = []
    for i in range(settings.n):
        weight = _MEAN_S * 2 * random.random()
        class_factors = factors[int(random.random() * settings.classes)]
        times = []
        for factor in class_factors:
            spread = 1 + settings.heterogeneity * (random.random() - 0.5)
            times.append(max(1.0, round(weight * (1 + settings.affinity * (factor - 1)) * spread * _GRID)) / _GRID)
        tasks.append(ProblemFileTask(f"t{i}", tuple(times)))
    sizes = [int(settings.ccr * _MEAN_S * 2 * random.random() * _BANDWIDTH) for _ in range(settings.n)]
    names = [f"{_KINDS[min(i, 2)]}:{i}" for i in range(settings.devices)]
    return ProblemFile(
        tuple(ProblemFileDevice(name, _KINDS[min(i, 2)]) for i, name in enumerate(names)),
        tuple(tasks),
        # A task has one output, which each of its readers reads as a whole.
        tuple(ProblemFileEdge(f"t{a}", f"t{b}", sizes[a]) for a, b in edges),
        tuple(ProblemFileLink(a, b, 0.0, _BANDWIDTH) for a in names for b in names if a != b),
    )


def _with_rules(tables: ProblemFile, convention: Literal["tasks", "segments"]) -> ProblemFile:
    overhead_s = 0.0 if convention == "tasks" else _MEAN_S / 64
    return ProblemFile(
        tuple(ProblemFileDevice(d.id, d.kind, overhead_s) for d in tables.devices),
        tables.tasks,
        tables.edges,
        tables.links,
        convention=convention,
    )


def random_problem(seed: int, tasks: int, devices: int) -> ProblemFile:
    """Return one small random graph, as the start of a search."""
    settings = RandomGraphSettings("layered", tasks, 0, 2.0, devices, 1.0, 1.0, 0.5, 4)
    return _draw(Random(f"start {seed} {tasks} {devices}"), settings)
