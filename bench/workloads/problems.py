"""``problems``: the user's problem files, such as those written by ``trisect bench adversary --out``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from trisect.scheduler.problem.problem import Problem

from . import WorkloadInstance, WorkloadRequest, workload
from ._files import matching, names


@workload("problems", provenance="the user's own problem files", licence="as the files say")
def problems(request: WorkloadRequest) -> Iterator[WorkloadInstance]:
    """Yield each problem that a path, a folder or a pattern matches: ``problems:worst/*.json``."""
    for name, path in names(matching(request.argument, [".json", ".stg"])).items():
        yield WorkloadInstance(name, partial(Problem.read, path, request.objective))
