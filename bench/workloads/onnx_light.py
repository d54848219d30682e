"""``onnx-light``: well-known networks that the onnx package ships for its own tests, without weights."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from . import WorkloadInstance, WorkloadRequest, workload
from ._files import matching, names
from ._models import MACHINE, model_instances


@workload(
    "onnx-light",
    provenance="networks of the ONNX model zoo as shipped in the onnx package (onnx/backend/test/data/light)",
    licence="Apache-2.0",
)
def onnx_light(request: WorkloadRequest, *, machine: str = MACHINE, only: str = "") -> Iterable[WorkloadInstance]:
    """Yield each network on a published machine.

    Parameters
    ----------
    request : WorkloadRequest
    machine : str
        See ``trisect devices --machine``.
    only : str
        Substring of the names.
    """
    folder = Path(str(files("onnx"))) / "backend" / "test" / "data" / "light"
    paths = {name.removeprefix("light_"): path for name, path in names(matching(str(folder), [".onnx"])).items()}
    no_shapes: dict[str, int] = {}
    models = {name: (path, no_shapes) for name, path in paths.items() if only in name}
    return model_instances(models, machine, request.objective)
