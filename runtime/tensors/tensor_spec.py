"""Describes a tensor that crosses a model's or a segment's boundary: name, dtype, shape and layout.

Where the engines on both sides of a boundary keep images as NHWC, a plan hands them over so. The segment that produces
such a tensor transposes it, and the one that consumes it transposes it back; an engine that computes in NHWC removes
both transposes, so neither costs anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Arrays = Mapping[str, np.ndarray]
"""Tensors by name."""

Layout = Literal["NCHW", "NHWC"]
TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
"""Permutations of axes, as in ONNX's Transpose."""

UNKNOWN_RANK: tuple[int | str, ...] = ("...",)
"""Shape of a tensor whose number of dimensions the model leaves open."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype, shape and layout of a model's input or output."""

    name: str
    dtype: str
    """numpy's name (``float32``, ``int64``, ``bfloat16``); ``object`` for strings."""
    shape: tuple[int | str, ...]
    """A symbolic dimension is its name, an unknown one ``"?"``; `UNKNOWN_RANK` where even the rank is unknown."""
    layout: Layout = "NCHW"
    """``NCHW``: axes in the model's order. ``NHWC``: an image that crosses a segment boundary with channels last."""


def as_nhwc(spec: TensorSpec) -> TensorSpec:
    """Return the description of the same image in the layout NHWC.

    Examples
    --------
    >>> as_nhwc(TensorSpec("x", "float32", (1, 3, 640, 480)))
    TensorSpec(name='x', dtype='float32', shape=(1, 640, 480, 3), layout='NHWC')
    """
    return replace(spec, shape=tuple(spec.shape[axis] for axis in TO_NHWC), layout="NHWC")


def in_model_layout(spec: TensorSpec, array: np.ndarray) -> np.ndarray:
    """Return a tensor of a plan with its axes in the model's order."""
    return array.transpose(TO_NCHW) if spec.layout == "NHWC" else array
