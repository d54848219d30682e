"""``stg``: the Standard Task Graph set, on identical processors without transfers: a reference for correctness."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from trisect.runtime.errors import InvalidInput, InvalidModel
from trisect.scheduler.problem.problem import Problem

from ..datasets import STG_PAGE
from . import WorkloadInstance, WorkloadRequest, workload
from ._files import data_folder


@workload(
    "stg",
    provenance=f"Standard Task Graph set, Tobita and Kasahara 2002, doi:10.1002/jos.116; {STG_PAGE}",
    licence="free for research, by its authors; a mirror under CC0-1.0",
)
def stg(
    request: WorkloadRequest, *, folder: str = "", processors: int = 4, only: str = "", limit: int = 0
) -> Iterator[WorkloadInstance]:
    """Yield each graph, with its published optimum or lower bound where it is available.

    Parameters
    ----------
    request : WorkloadRequest
    folder : str
        Folder of the ``.stg`` files, and of ``optimal.csv`` if available.
    processors : int
    only : str
        Substring of the names of the graphs.
    limit : int
        Maximum number of graphs, picked evenly; 0 for all.
    """
    if request.objective not in (None, "latency"):
        raise InvalidInput(f"the workload stg has no objective {request.objective}", remedy="its objective is latency")
    root = data_folder(
        "stg",
        folder,
        f"{STG_PAGE}; python -m trisect.bench.datasets --stg ADDRESS --sha256 HASH fetches an archive of them",
    )
    paths = [path for path in sorted(root.rglob("*.stg")) if only in path.stem]
    if 0 < limit < len(paths):
        paths = [paths[i * len(paths) // limit] for i in range(limit)]
    bounds = _published(root / "optimal.csv")
    for path in paths:
        name = path.relative_to(root).with_suffix("").as_posix()
        known = bounds.get((path.name, processors), 0.0)
        yield WorkloadInstance(name, partial(Problem.read, path, processors=processors), known_bound=known)


def _published(path: Path) -> dict[tuple[str, int], float]:
    """Return the published lower bounds by file and number of processors."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {
                (row["file"], int(row["processors"])): float(row["optimum_or_bounds"].replace(",", " ").split()[0])
                for row in csv.DictReader(file)
            }
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise InvalidModel(f"{path} is not a table of optima", remedy="fix the file, or remove it") from error
