"""``model``: the user's own ONNX models."""

from __future__ import annotations

from collections.abc import Iterable

from trisect.runtime.errors import InvalidInput

from . import WorkloadInstance, WorkloadRequest, workload
from ._files import matching, names
from ._models import MACHINE, model_instances


@workload("model", provenance="the user's own files", licence="as the files say")
def model(request: WorkloadRequest, *, machine: str = MACHINE, shapes: str = "") -> Iterable[WorkloadInstance]:
    """Yield each model that a path, a folder or a pattern matches (``model:nets/*.onnx``), on a published machine.

    Parameters
    ----------
    request : WorkloadRequest
        Its argument is the path.
    machine : str
        See ``trisect devices --machine``.
    shapes : str
        Sizes of symbolic dimensions, ``batch:1;length:128``.
    """
    paths = names(matching(request.argument, [".onnx"]))
    sizes = sizes_of(shapes)
    return model_instances({name: (path, sizes) for name, path in paths.items()}, machine, request.objective)


def sizes_of(text: str) -> dict[str, int]:
    """Parse sizes of symbolic dimensions.

    Examples
    --------
    >>> sizes_of("batch:1;length:128")
    {'batch': 1, 'length': 128}
    """
    try:
        pairs = [part.rpartition(":") for part in text.split(";") if part]
        return {name: int(size) for name, _, size in pairs}
    except ValueError:
        raise InvalidInput(f"model: shapes is {text!r}", remedy="give them as batch:1;length:128") from None
