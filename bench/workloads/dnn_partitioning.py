"""``dnn-partitioning``: device-placement graphs of Tarnawski et al., with accelerators attached to a host."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from trisect.runtime.errors import InvalidInput
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective

from . import WorkloadInstance, WorkloadRequest, workload
from ._files import data_folder

_SOURCE = "github.com/msr-fiddle/dnn-partitioning (fetch them with: python -m trisect.bench.datasets)"


@workload(
    "dnn-partitioning",
    provenance="Tarnawski et al., NeurIPS 2020, arXiv:2006.16423; github.com/msr-fiddle/dnn-partitioning",
    licence="MIT",
)
def dnn_partitioning(
    request: WorkloadRequest, *, folder: str = "", only: str = "", contiguous: str = "both"
) -> Iterator[WorkloadInstance]:
    """Yield each graph with its published objective; for throughput with and without contiguity.

    Parameters
    ----------
    request : WorkloadRequest
    folder : str
        Folder of the files, in the authors' layout or any whose folders start with ``throughput`` and ``latency``.
    only : str
        Substring of the names of the graphs.
    contiguous : str
        ``yes``, ``no`` or ``both``.
    """
    options = {"yes": (True,), "no": (False,), "both": (True, False)}.get(contiguous)
    if options is None:
        raise InvalidInput(f"dnn-partitioning: contiguous is {contiguous!r}", remedy="give yes, no or both")
    root = data_folder("dnn-partitioning", folder, _SOURCE)
    for path in sorted(root.rglob("*.json")):
        inside = path.relative_to(root)
        kinds: tuple[Objective, ...] = ("throughput", "latency")
        objective = next((kind for kind in kinds if inside.parts[0].startswith(kind)), None)
        name = inside.with_suffix("").as_posix()
        if objective is None or request.objective not in (None, objective) or only not in name:
            continue
        for is_contiguous in options if objective == "throughput" else (False,):
            yield WorkloadInstance(
                f"{name} contiguous" if is_contiguous else name, partial(Problem.read, path, objective, is_contiguous)
            )
