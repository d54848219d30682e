"""Placement on published benchmarks: values and bounds within a time limit, and the best known values.

The graphs belong to their authors and are not part of trisect. They are read from the folder ``TRISECT_DATA``:
``dnn-partitioning`` with ``throughput`` and ``latency`` (https://github.com/msr-fiddle/dnn-partitioning), ``stg`` with
``optimal.csv`` (the Standard Task Graph set, https://www.kasahara.cs.waseda.ac.jp/schedule/).
"""

from __future__ import annotations

import csv
import json
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import inf
from pathlib import Path

from trisect.runtime.errors import InvalidInput
from trisect.runtime.progress import Progress, no_progress
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective
from trisect.solving import solve

from ..datasets import ENVIRONMENT, folders
from .problem_variants import SCALE, VARIANTS

_TOLERANCE = 1e-4
"""Published values have three decimals."""


@dataclass(frozen=True)
class BestKnownValue:
    """The best published value of a graph, or that of other solvers, in its unit of time."""

    graph: str
    objective: Objective
    contiguous: bool
    value: float
    is_optimum: bool


BEST_KNOWN = (
    # Tarnawski et al., NeurIPS 2020: their exact program over downsets, run to the end.
    BestKnownValue("throughput/layer/bert24_inference", "throughput", True, 17.790, True),
    BestKnownValue("throughput/layer/gnmt_inference", "throughput", True, 32.911, True),
    BestKnownValue("throughput/layer/resnet50_inference", "throughput", True, 33.775, True),
    BestKnownValue("throughput/layer/inceptionv3_inference", "throughput", True, 51.552, True),
    BestKnownValue("throughput/operator/bert_l-3_inference", "throughput", True, 27.919, True),
    BestKnownValue("throughput/operator/bert_l-6_inference", "throughput", True, 29.580, True),
    BestKnownValue("throughput/operator/resnet50_inference", "throughput", True, 124.349, True),
    BestKnownValue("throughput/operator/bert_l-12_inference", "throughput", True, 147.478, True),
    # CP-SAT and HiGHS models of the same objective, 150 s on two cores; else the contiguous optimum.
    BestKnownValue("throughput/layer/bert24_inference", "throughput", False, 17.715, False),
    BestKnownValue("throughput/layer/gnmt_inference", "throughput", False, 31.687, False),
    BestKnownValue("throughput/layer/resnet50_inference", "throughput", False, 33.775, False),
    BestKnownValue("throughput/layer/inceptionv3_inference", "throughput", False, 51.552, False),
    BestKnownValue("throughput/operator/bert_l-3_inference", "throughput", False, 21.908, True),
    BestKnownValue("throughput/operator/bert_l-6_inference", "throughput", False, 28.327, False),
    BestKnownValue("throughput/operator/resnet50_inference", "throughput", False, 124.349, False),
    BestKnownValue("throughput/operator/bert_l-12_inference", "throughput", False, 147.478, False),
    BestKnownValue("latency/layer/bert24_inference", "latency", False, 100.218, True),
    BestKnownValue("latency/layer/gnmt_inference", "latency", False, 225.65, False),
    BestKnownValue("latency/operator/bert_l-3_inference", "latency", False, 408.471, True),
    BestKnownValue("latency/operator/bert_l-6_inference", "latency", False, 438.06, False),
)


@dataclass(frozen=True)
class PlacementRun:
    """One graph, one objective."""

    graph: str
    objective: Objective
    contiguous: bool
    tasks: int
    value: float
    bound: float
    gap: float
    bound_by: str
    is_cut_short: bool
    """Whether the time limit stopped the search: another run may then find something else."""
    seconds: float
    violations: int
    best_known: float | None
    """None for a variant with another optimum."""
    met: bool
    """Valid, and within the target: the optimum where contiguous or known, the best known latency, else 1 % above the
    best known value."""
    variant: str = ""
    """Variant of the graph, if not the graph itself; see `trisect.bench.acceptance.problem_variants`."""


@dataclass(frozen=True)
class TaskGraphRun:
    """One standard task graph on some number of processors."""

    graph: str
    processors: int
    value: float
    bound: float
    optimum: float
    """The published optimum, or the upper bound where only bounds are published."""
    gap: float
    """To the published optimum, or to the better of the published and the proven lower bound."""
    seconds: float
    valid: bool
    """No violations, and not below the published lower bound, which would be a fault of the validator."""


@dataclass(frozen=True)
class PlacementBench:
    """All runs."""

    strategy: str
    time_limit_s: float
    seed: int
    versions: Mapping[str, str]
    runs: tuple[PlacementRun, ...]
    task_graphs: tuple[TaskGraphRun, ...]
    mean_gap: float | None
    """Of the task graphs."""

    @property
    def met(self) -> bool:
        """Whether every target is met."""
        gap_met = self.mean_gap is None or self.mean_gap <= 0.005
        return all(run.met for run in self.runs) and all(run.valid for run in self.task_graphs) and gap_met


def bench_placement(
    strategy: str = "exact",
    *,
    time_limit_s: float = 60.0,
    task_graph_s: float = 5.0,
    only: str = "",
    seed: int = 0,
    variants: bool = False,
    progress: Progress = no_progress,
) -> PlacementBench:
    """Solve every published problem in the data folder.

    Parameters
    ----------
    strategy : str
        For the device-placement graphs; the standard task graphs always use ``auto``.
    time_limit_s, task_graph_s : float
        For each problem.
    only : str
        Substring of the names of the graphs to run.
    seed : int
    variants : bool
        Solve variants of the device-placement graphs instead: renamed, scaled, perturbed, with other numbers of
        accelerators, and as training graphs.
    progress : callable, optional
    """
    folder = next((folder for folder in folders() if folder.is_dir()), None)
    if folder is None:
        raise InvalidInput(
            "the published graphs are missing",
            remedy=f"clone github.com/msr-fiddle/dnn-partitioning and set {ENVIRONMENT} to the folder above it",
        )
    cases = [
        (path, case)
        for case in BEST_KNOWN
        if (path := folder / "dnn-partitioning" / f"{case.graph}.json").is_file() and only in case.graph
    ]
    graphs = [row for row in _task_graphs(folder / "stg") if only in row[0].name and not variants]
    jobs = [
        (path, case, variant)
        for path, case in cases
        for variant in (VARIANTS if variants else ("",))
        if not (variant == "training" and case.objective == "latency")
    ]
    total = len(jobs) + len(graphs)
    runs, task_graphs = [], []
    for i, (path, case, variant) in enumerate(jobs):
        progress(i, total, f"{case.graph} {variant}".rstrip())
        runs.append(_run(path, case, variant, strategy, time_limit_s, seed))
    for i, (path, processors, lower, upper) in enumerate(graphs):
        progress(len(jobs) + i, total, f"{path.name}, {processors} processors")
        task_graphs.append(_run_task_graph(path, processors, lower, upper, task_graph_s, seed))
    mean = statistics.fmean(run.gap for run in task_graphs) if task_graphs else None
    versions = {"python": platform.python_version()} | {name: version(name) for name in ("trisect", "ortools", "numpy")}
    return PlacementBench(strategy, time_limit_s, seed, versions, tuple(runs), tuple(task_graphs), mean)


def _run(path: Path, case: BestKnownValue, variant: str, strategy: str, time_limit_s: float, seed: int) -> PlacementRun:
    with tempfile.TemporaryDirectory() as folder:
        if variant:
            changed = VARIANTS[variant](json.loads(path.read_text()))
            path = Path(folder) / path.name
            path.write_text(json.dumps(changed))
        problem = Problem.read(path, objective=case.objective, contiguous=case.contiguous)
    solution = solve(problem, strategy, time_limit_s=time_limit_s, seed=seed)
    is_exact = case.contiguous or case.is_optimum or case.objective == "latency"
    scale = {"": 1.0, "renamed": 1.0, "scaled": SCALE}.get(variant)
    best_known = None if scale is None else case.value * scale
    target = inf if best_known is None else best_known * (1 + _TOLERANCE if is_exact else 1.01)
    return PlacementRun(
        graph=case.graph,
        objective=case.objective,
        contiguous=case.contiguous,
        tasks=len(problem.graph),
        value=solution.value,
        bound=solution.bound,
        gap=solution.gap,
        bound_by=solution.bound_by,
        is_cut_short=solution.is_cut_short,
        seconds=solution.seconds,
        violations=len(solution.violations),
        best_known=best_known,
        met=solution.is_valid and solution.value <= target,
        variant=variant,
    )


def _task_graphs(folder: Path) -> Sequence[tuple[Path, int, float, float]]:
    if not (folder / "optimal.csv").is_file():
        return []
    rows = []
    with (folder / "optimal.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            bounds = [float(word) for word in row["optimum_or_bounds"].replace(",", " ").split()]
            rows.append((folder / row["file"], int(row["processors"]), bounds[0], bounds[-1]))
    return rows


def _run_task_graph(
    path: Path, processors: int, lower: float, upper: float, time_limit_s: float, seed: int
) -> TaskGraphRun:
    solution = solve(Problem.read(path, processors=processors), "auto", time_limit_s=time_limit_s, seed=seed)
    return TaskGraphRun(
        graph=path.stem,
        processors=processors,
        value=solution.value,
        bound=solution.bound,
        optimum=upper,
        gap=solution.value / max(lower, solution.bound) - 1 if solution.value else 0.0,
        seconds=solution.seconds,
        valid=solution.is_valid and solution.value >= lower - 1e-9,
    )
