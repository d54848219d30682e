"""Checks what a segment returned against what the plan states: names, dtypes, and the dimensions that are fixed.

An engine that reads an operator differently often returns another shape or dtype. The next engine may accept it and
compute something from it, so it is refused where it arises. A check costs less than a microsecond per tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...errors import EngineFailed
from ...plans.plan_parts import Segment
from ...tensors.containers import container_of
from ...tensors.dtypes import PLAIN_DTYPES, dtype_of, same_dtype
from ...tensors.tensor_spec import UNKNOWN_RANK, TensorSpec
from .host import Tensor


def check_outputs(segment: Segment, outputs: Mapping[str, Tensor]) -> None:
    """Check the outputs of a segment; a dimension that the plan leaves open may have any size.

    Raises
    ------
    EngineFailed
        Names the tensor, what the plan states, and what the device returned.
    """
    for spec in segment.outputs:
        tensor = outputs.get(spec.name)
        if tensor is None:
            raise EngineFailed(f"{segment.device} returned no {spec.name!r}", device=segment.device)
        if tensor.shape == spec.shape and tensor.dtype is PLAIN_DTYPES.get(spec.dtype):
            continue
        if not _fits(spec, tensor.dtype, tensor.shape):
            raise EngineFailed(
                f"{segment.device} returned {spec.name!r} as {_text(tensor.dtype.name, tensor.shape)}, but the plan "
                f"states {_text(spec.dtype, spec.shape)}",
                device=segment.device,
                remedy=f"split the model again, without {segment.device} for these nodes",
            )


def _fits(spec: TensorSpec, dtype: np.dtype, shape: tuple[int, ...]) -> bool:
    if container_of(spec.dtype) is not None:
        return dtype.kind == "O"
    if not same_dtype(dtype, dtype_of(spec.dtype)):
        return False
    if spec.shape == UNKNOWN_RANK:
        return True
    return len(shape) == len(spec.shape) and all(
        size == dim or not isinstance(dim, int) for size, dim in zip(shape, spec.shape, strict=True)
    )


def _text(dtype: str, shape: tuple[int | str, ...]) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"
