"""``random``: task graphs drawn from a seed, of four shapes, for devices that differ as much as is asked for.

Every time is a multiple of 2^-30 s and every bandwidth a power of two, so that sums of them are exact: the same seed
gives the same bits on every machine.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
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

from . import WorkloadInstance, WorkloadRequest, workload
from ._shapes import SHAPES

_GRID = 2.0**30
_MEAN_S = 2.0**-10
"""Mean time of a task on a device that is neither quick nor slow: a millisecond."""
_BANDWIDTH = 2.0**30
_AFFINITIES = (0.25, 0.5, 1.0, 2.0, 4.0)
_KINDS: tuple[Literal["cpu", "gpu", "npu"], ...] = ("cpu", "gpu", "npu")
_MOST_TASKS = 1_000_000
_MOST_PAIRS_TASKS = 5_000


@workload("random", provenance="drawn here from a seed: task graphs of known shapes and costs", licence="Apache-2.0")
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
    """One graph a seed.

    Parameters
    ----------
    request : WorkloadRequest
        Its argument is the shape: layered, fork-join, series-parallel or erdos-renyi.
    n : int
        Tasks.
    width : int
        Mean width; 0 for the square root of n.
    degree : float
        Mean number of successors; of fork-join the longest branch.
    devices : int
    ccr : float
        Mean time of a transfer over mean time of a task.
    heterogeneity : float
        From 0 (each device as quick as the others at a task) to 2: times spread over ``1 +- heterogeneity / 2``.
    affinity : float
        From 0 to 1: how much each device is quicker or slower, up to four times, at each class of operators.
    classes : int
        Classes of operators.
    rules : str
        ``tasks`` (each task by itself) or ``segments`` (cut and called as the runtime does).
    """
    if request.argument not in SHAPES:
        near = difflib.get_close_matches(request.argument, SHAPES, n=1)
        hint = f"did you mean random:{near[0]}? " if near else ""
        raise InvalidInput(f"no random graphs {request.argument!r}", remedy=f"{hint}there are: {', '.join(SHAPES)}")
    most = _MOST_PAIRS_TASKS if request.argument == "erdos-renyi" else _MOST_TASKS
    sound = (
        1 <= n <= most
        and 0 <= width <= n
        and 1 <= devices <= 64
        and 1 <= classes <= 1000
        and rules in ("tasks", "segments")
        and 0 <= heterogeneity <= 2
        and 0 <= affinity <= 1
        and 0 <= ccr <= 1e6
        and isfinite(degree)
        and 1 <= degree <= n
    )
    if not sound:
        raise InvalidInput(
            f"no such graphs random:{request.argument}",
            remedy=f"n is 1 to {most}, width at most n, degree 1 to n, devices 1 to 64, ccr from 0, heterogeneity 0 to "
            "2, affinity 0 to 1, rules tasks or segments",
        )
    if rules == "tasks" and request.objective not in (None, "latency"):
        message = f"random:{request.argument} goes by single tasks, whose objective is latency"
        raise InvalidInput(message, remedy="add rules=segments")
    for seed in request.seeds:
        # All that shapes the graph is in the generator's seed, so that no two settings share their draws.
        key = f"{request.argument} {n} {width} {degree} {devices} {ccr} {heterogeneity} {affinity} {classes} {seed}"

        def make(key: str = key, seed: int = seed) -> Problem:
            tables = _draw(
                Random(key), request.argument, n, width, degree, devices, ccr, heterogeneity, affinity, classes
            )
            convention = cast(Literal["tasks", "segments"], rules)
            return Problem.from_tables(to_tables(_with_rules(tables, convention), f"seed {seed}", request.objective))

        yield WorkloadInstance(f"seed {seed}", make, seed)


def _draw(
    random: Random,
    shape: str,
    n: int,
    width: int,
    degree: float,
    devices: int,
    ccr: float,
    heterogeneity: float,
    affinity: float,
    classes: int,
) -> ProblemFile:
    edges = SHAPES[shape](random, n, width or isqrt(n), degree)
    factors = [[_AFFINITIES[int(random.random() * len(_AFFINITIES))] for _ in range(devices)] for _ in range(classes)]
    tasks = []
    for i in range(n):
        weight = _MEAN_S * 2 * random.random()
        liked = factors[int(random.random() * classes)]
        times = []
        for factor in liked:
            spread = 1 + heterogeneity * (random.random() - 0.5)
            times.append(max(1.0, round(weight * (1 + affinity * (factor - 1)) * spread * _GRID)) / _GRID)
        tasks.append(ProblemFileTask(f"t{i}", tuple(times)))
    sizes = [int(ccr * _MEAN_S * 2 * random.random() * _BANDWIDTH) for _ in range(n)]
    names = [f"{_KINDS[min(i, 2)]}:{i}" for i in range(devices)]
    return ProblemFile(
        tuple(ProblemFileDevice(name, _KINDS[min(i, 2)]) for i, name in enumerate(names)),
        tuple(tasks),
        # A task makes one thing, and all that read it read all of it.
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


def draw(seed: int, tasks: int, devices: int) -> ProblemFile:
    """Tables of one small random graph, to start a search from."""
    return _draw(Random(f"start {seed} {tasks} {devices}"), "layered", tasks, 0, 2.0, devices, 1.0, 1.0, 0.5, 4)
