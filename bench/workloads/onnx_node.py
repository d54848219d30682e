"""``onnx-node``: small graphs of the onnx package's own operator tests."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

from trisect.runtime.scratch_folder import ScratchFolder
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective

from . import WorkloadInstance, WorkloadRequest, workload
from ._models import MACHINE, model_problem


@workload(
    "onnx-node",
    provenance="operator test cases of the onnx package (onnx.backend.test)",
    licence="Apache-2.0",
)
def onnx_node(
    request: WorkloadRequest, *, machine: str = MACHINE, nodes: int = 8, limit: int = 40, only: str = ""
) -> Iterator[WorkloadInstance]:
    """Yield each test case with a minimum number of nodes, on a published machine.

    Parameters
    ----------
    request : WorkloadRequest
    machine : str
        See ``trisect devices --machine``.
    nodes : int
        Minimum number of nodes.
    limit : int
        Maximum number of instances, picked evenly; 0 for all.
    only : str
        Substring of the names.
    """
    names = [name for name, (count, _) in _cases().items() if count >= nodes and only in name]
    if 0 < limit < len(names):
        names = [names[i * len(names) // limit] for i in range(limit)]
    for name in names:
        yield WorkloadInstance(name, partial(_problem, name, machine, request.objective))


@cache
def _cases() -> dict[str, tuple[int, bytes]]:
    """Return name -> number of nodes and content of the file."""
    from onnx.backend.test.case.node import collect_testcases

    # onnx computes their expected outputs, with some warnings.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        models = {case.name: case.model for case in collect_testcases(None)}
    return {
        name.removeprefix("test_"): (len(model.graph.node), model.SerializeToString())
        for name, model in sorted(models.items())
        if model is not None
    }


def _problem(name: str, machine: str, objective: Objective | None) -> Problem:
    with ScratchFolder("node") as folder:
        path = Path(folder) / f"{name}.onnx"
        path.write_bytes(_cases()[name][1])
        return model_problem(path, {}, machine, objective)
