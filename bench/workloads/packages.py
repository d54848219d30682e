"""``packages``: real models that Python packages ship, as `trisect.bench.models` fetches them."""

from __future__ import annotations

from collections.abc import Iterable

from trisect.runtime.errors import InvalidInput

from ..model_packages import PACKAGES, models_folder
from . import WorkloadInstance, WorkloadRequest, workload
from ._models import MACHINE, model_instances


@workload(
    "packages",
    provenance="models in Python packages, each with its hash and licence in trisect.bench.models",
    licence="of each package: see trisect.bench.models",
)
def packages(
    request: WorkloadRequest, *, machine: str = MACHINE, folder: str = "", only: str = ""
) -> Iterable[WorkloadInstance]:
    """Yield each fetched model at its usual shapes.

    Parameters
    ----------
    request : WorkloadRequest
    machine : str
        See ``trisect devices --machine``.
    folder : str
        Folder of the models; default: ``TRISECT_MODELS``, else ``.cache/models``.
    only : str
        Substring of the names.
    """
    root = models_folder(folder)
    files = [file for package in PACKAGES.values() for file in package.files if file.name.endswith(".onnx")]
    models = {
        file.name.removesuffix(".onnx"): (root / file.name, file.shapes)
        for file in files
        if only in file.name and (root / file.name).is_file()
    }
    if not models:
        raise InvalidInput(
            f"none of the models of Python packages is in {root}",
            remedy=f"run: python -m trisect.bench.models rapidocr silero-vad --to {root}",
        )
    return model_instances(models, machine, request.objective)
