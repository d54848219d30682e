"""A model's own operators as cases to measure: at its shapes, with its weights, each kind once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from trisect.profiles.costmodel.op_features import OpClass, OpFeatures
from trisect.profiles.measuring.operator_cases import Case
from trisect.runtime.tensors.tensor_spec import TensorSpec
from trisect.runtime.tensors.tensors import dtype_of

from ..graph.model_graph import Graph
from ..problem.device_support import Pieces, candidate
from ..problem.problem_builder import task_graph

_LEAST_FLOPS = 100_000.0
_LEAST_BYTES = 65_536
"""Below both an operator takes less than the call that it would be measured with."""


@contextmanager
def model_cases(graph: Graph) -> Iterator[list[Case]]:
    """The tasks of a model that are worth measuring, heaviest first.

    Parameters
    ----------
    graph : Graph

    Yields
    ------
    list of Case
        Their files live as long as the block.
    """
    tasks = task_graph(graph)
    members: dict[str, tuple[str, ...]] = {task: data["nodes"] for task, data in tasks.nodes(data=True)}
    found: dict[str, Case] = {}
    with TemporaryDirectory(prefix="trisect-cases-") as folder:
        pieces = Pieces(graph, members, Path(folder))
        for task, data in tasks.nodes(data=True):
            case = _case(graph, task, data["work"], data["features"], pieces)
            if case is not None:
                found.setdefault(case.name, case)
        yield sorted(found.values(), key=lambda case: (-case.flops, -case.size_bytes, case.name))


def _case(graph: Graph, task: str, work: tuple[OpFeatures, ...], heaviest: OpFeatures, pieces: Pieces) -> Case | None:
    flops = sum(part.flops for part in work)
    size_bytes = sum(part.bytes_read + part.bytes_written for part in work)
    if heaviest.op_class is OpClass.SHAPE or (flops < _LEAST_FLOPS and size_bytes < _LEAST_BYTES):
        return None
    nodes = pieces.members[task]
    return Case(
        name=f"{heaviest.op_class.value}:{candidate(graph, nodes, partial(pieces.of, task)).key}",
        op_class=heaviest.op_class,
        op_type=heaviest.op_type,
        flops=flops,
        size_bytes=size_bytes,
        repeats=1,
        shape=(),
        output_shape=(),
        build=partial(pieces.of, task),
        given=lambda: {spec.name: _feed(spec) for spec in pieces.inputs(task)},
    )


def _feed(spec: TensorSpec) -> np.ndarray:
    """Numbers around zero; indices and flags at zero, which is in range of any table."""
    shape = tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape)
    dtype = dtype_of(spec.dtype)
    if dtype.kind in "iub":
        return np.zeros(shape, dtype)
    if dtype.kind == "O":
        return np.full(shape, "", dtype)
    return np.resize(np.random.default_rng(0).standard_normal(min(prod(shape), 65_521) or 1), shape).astype(dtype)
