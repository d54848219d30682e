"""A model's own operators as benchmark cases: at its shapes, with its weights, equal ones once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from trisect.profiles.costmodel.op_features import OpClass, OpFeatures
from trisect.profiles.measuring.operator_cases import OperatorCase
from trisect.runtime.scratch_folder import ScratchFolder
from trisect.runtime.tensors.dtypes import dtype_of
from trisect.runtime.tensors.tensor_spec import TensorSpec

from ..graph.model_graph import Graph
from ..problem.device_support import TaskModels, candidate
from ..problem.task_grouping import nodes_of_tasks, task_graph

_FLOPS_MIN = 100_000.0
_BYTES_MIN = 65_536
"""Below both, an operator takes less than the call that it would be measured with."""


@contextmanager
def model_cases(graph: Graph) -> Iterator[list[OperatorCase]]:
    """Yield the tasks of a model that are worth measuring, most expensive first.

    Yields
    ------
    list of OperatorCase
        Their files live as long as the block.
    """
    tasks = task_graph(graph)
    cases: dict[str, OperatorCase] = {}
    with ScratchFolder("cases") as folder:
        models = TaskModels(graph, nodes_of_tasks(tasks), Path(folder))
        for task, data in tasks.nodes(data=True):
            case = _case(graph, task, data["operators"], data["features"], models)
            if case is not None:
                cases.setdefault(case.name, case)
        yield sorted(cases.values(), key=lambda case: (-case.flops, -case.size_bytes, case.name))


def _case(
    graph: Graph, task: str, operators: tuple[OpFeatures, ...], heaviest: OpFeatures, models: TaskModels
) -> OperatorCase | None:
    flops = sum(part.flops for part in operators)
    size_bytes = sum(part.bytes_read + part.bytes_written for part in operators)
    if heaviest.op_class is OpClass.SHAPE or (flops < _FLOPS_MIN and size_bytes < _BYTES_MIN):
        return None
    nodes = models.members[task]
    return OperatorCase(
        name=f"{heaviest.op_class.value}:{candidate(graph, nodes, partial(models.file, task)).key}",
        op_class=heaviest.op_class,
        op_type=heaviest.op_type,
        flops=flops,
        size_bytes=size_bytes,
        repeats=1,
        shape=(),
        output_shape=(),
        build=partial(models.file, task),
        make_feeds=lambda: {spec.name: _feed(spec) for spec in models.inputs(task)},
    )


def _feed(spec: TensorSpec) -> np.ndarray:
    """Return numbers around zero; indices and flags are zero, which is a valid index of any table."""
    shape = tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape)
    dtype = dtype_of(spec.dtype)
    if dtype.kind in "iub":
        return np.zeros(shape, dtype)
    if dtype.kind == "O":
        return np.full(shape, "", dtype)
    return np.resize(np.random.default_rng(0).standard_normal(min(prod(shape), 65_521) or 1), shape).astype(dtype)
