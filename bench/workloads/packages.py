"""``packages``: real models that Python packages ship, as `trisect.bench.models` fetches them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from trisect.runtime.errors import InvalidInput

from ..model_packages import PACKAGES
from . import WorkloadInstance, WorkloadRequest, workload
from ._models import MACHINE, model_instances


@workload(
    "packages",
    provenance="models inside Python packages, each with its hash and licence in trisect.bench.models",
    licence="of each package: see trisect.bench.models",
)
def packages(
    request: WorkloadRequest, *, machine: str = MACHINE, folder: str = "", only: str = ""
) -> Iterable[WorkloadInstance]:
    """Each model that was fetched, at the shapes that it is used with.

    Parameters
    ----------
    request : WorkloadRequest
    machine : str
        See ``trisect devices --machine``.
    folder : str
        Where ``python -m trisect.bench.models`` put them; ``TRISECT_MODELS``, else ``.cache/models``, when left out.
    only : str
        Part of the names wanted.
    """
    root = Path(folder or os.environ.get("TRISECT_MODELS", ".cache/models"))
    known = [file for package in PACKAGES.values() for file in package.files if file.name.endswith(".onnx")]
    there = {
        file.name.removesuffix(".onnx"): (root / file.name, file.shapes)
        for file in known
        if only in file.name and (root / file.name).is_file()
    }
    if not there:
        raise InvalidInput(
            f"none of the models of Python packages is in {root}",
            remedy=f"run: python -m trisect.bench.models rapidocr silero-vad --to {root}",
        )
    return model_instances(there, machine, request.objective)
