"""``onnx-node``: the small graphs that the onnx package makes for its own tests of operators."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective

from . import WorkloadInstance, WorkloadRequest, workload
from ._models import MACHINE, model_problem


@workload(
    "onnx-node",
    provenance="test cases of operators, made by the onnx package (onnx.backend.test)",
    licence="Apache-2.0",
)
def onnx_node(
    request: WorkloadRequest, *, machine: str = MACHINE, nodes: int = 8, limit: int = 40, only: str = ""
) -> Iterator[WorkloadInstance]:
    """Each test case with so many nodes or more, on a published machine.

    Parameters
    ----------
    request : WorkloadRequest
    machine : str
        See ``trisect devices --machine``.
    nodes : int
        Smaller graphs leave nothing to place.
    limit : int
        At most so many, evenly picked; 0 for all.
    only : str
        Part of the names wanted.
    """
    names = [name for name, (count, _) in _cases().items() if count >= nodes and only in name]
    if 0 < limit < len(names):
        names = [names[i * len(names) // limit] for i in range(limit)]
    for name in names:
        yield WorkloadInstance(name, partial(_problem, name, machine, request.objective))


@cache
def _cases() -> dict[str, tuple[int, bytes]]:
    """Name -> number of nodes and the file's content."""
    from onnx.backend.test.case.node import collect_testcases

    # Making them, onnx computes what they should give, and some of that warns.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        found = {case.name: case.model for case in collect_testcases(None)}
    return {
        name.removeprefix("test_"): (len(model.graph.node), model.SerializeToString())
        for name, model in sorted(found.items())
        if model is not None
    }


def _problem(name: str, machine: str, objective: Objective | None) -> Problem:
    with tempfile.TemporaryDirectory(prefix="trisect-node-") as folder:
        path = Path(folder) / f"{name}.onnx"
        path.write_bytes(_cases()[name][1])
        return model_problem(path, {}, machine, objective)
