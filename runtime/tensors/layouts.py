"""Tensors that cross between segments with their channels last, told by their names.

ONNX has images as [batch, channels, rows, columns]. Where the engines at both sides keep them as [batch, rows, columns,
channels], a plan hands them over so: the segment that makes one transposes it, and the one that reads it transposes it
back, which costs nothing where it is how the tensor lies.
"""

from __future__ import annotations

import numpy as np

from .tensor_spec import TensorSpec

SUFFIX = ":channels_last"
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Permutations of axes, as of ONNX's Transpose."""


def channels_last(spec: TensorSpec) -> TensorSpec:
    """The same tensor with its channels last.

    Examples
    --------
    >>> channels_last(TensorSpec("x", "float32", (1, 3, 640, 480)))
    TensorSpec(name='x:channels_last', dtype='float32', shape=(1, 640, 480, 3))
    """
    return TensorSpec(spec.name + SUFFIX, spec.dtype, tuple(spec.shape[axis] for axis in TO_LAST))


def name_in_model(name: str) -> str:
    """What the model calls a tensor of a plan."""
    return name.removesuffix(SUFFIX)


def as_in_model(name: str, array: np.ndarray) -> np.ndarray:
    """A tensor of a plan, with its axes as in the model."""
    return array.transpose(TO_FIRST) if name.endswith(SUFFIX) else array
