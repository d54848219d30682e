"""The layout of images on a segment boundary: NCHW as in ONNX models, or NHWC where both sides compute in that.

Where the engines on both sides of a boundary keep images as NHWC, a plan hands them over so. The segment that produces
such a tensor transposes it, and the one that consumes it transposes it back; an engine that computes in NHWC removes
both transposes, so neither costs anything.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .tensor_spec import TensorSpec

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
"""Permutations of axes, as in ONNX's Transpose."""


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
