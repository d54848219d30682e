"""``dnn-partitioning``: device-placement graphs of Tarnawski et al., with accelerators that serve a host."""

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
    """Each graph under the objective that it was published for; for throughput with and without contiguity.

    Parameters
    ----------
    request : WorkloadRequest
    folder : str
        Where the files are, in the authors' layout or any with ``throughput`` and ``latency`` in its folders' names.
    only : str
        Part of the names of the graphs wanted.
    contiguous : str
        ``yes``, ``no`` or ``both``.
    """
    wanted = {"yes": (True,), "no": (False,), "both": (True, False)}.get(contiguous)
    if wanted is None:
        raise InvalidInput(f"dnn-partitioning: contiguous is {contiguous!r}", remedy="give yes, no or both")
    root = data_folder("dnn-partitioning", folder, _SOURCE)
    for path in sorted(root.rglob("*.json")):
        inside = path.relative_to(root)
        kinds: tuple[Objective, ...] = ("throughput", "latency")
        objective = next((kind for kind in kinds if inside.parts[0].startswith(kind)), None)
        name = inside.with_suffix("").as_posix()
        if objective is None or request.objective not in (None, objective) or only not in name:
            continue
        for one_piece in wanted if objective == "throughput" else (False,):
            yield WorkloadInstance(
                f"{name} contiguous" if one_piece else name, partial(Problem.read, path, objective, one_piece)
            )
