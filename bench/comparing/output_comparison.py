"""Comparison of one contender's outputs with another's, and tensors as a file that two processes share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trisect.runtime.tensors.tensor_spec import Arrays
from trisect.runtime.tensors.value_difference import compare

TOLERANCE = 1e-3
"""Allowed error of a float32 value: absolute, plus relative to the reference's value."""
RELATIVE_MAX = 0.1
"""A larger difference, as a share of the output's largest magnitude, is wrong however small the output is."""


@dataclass(frozen=True)
class OutputDifference:
    """OutputDifference of outputs from those of the reference."""

    max_abs: float
    """Largest difference in any output; infinite where names, shapes or NaNs differ."""
    max_rel: float
    """The same as a share of the output's largest magnitude."""
    ok: bool
    """Whether every element is within the tolerance."""


def write_tensors(path: Path, arrays: Arrays) -> None:
    """Write tensors of any of ONNX's types."""
    protos = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    path.write_bytes(helper.make_graph([], "tensors", [], [], protos).SerializeToString())


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read what `write_tensors` wrote."""
    graph = onnx.GraphProto.FromString(path.read_bytes())
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return {name: _text(array) if array.dtype.kind in "OSU" else array for name, array in arrays.items()}


def output_difference(outputs: Arrays, reference: Arrays) -> OutputDifference:
    """Compare outputs one by one.

    Examples
    --------
    >>> output_difference({"y": np.array([1.0, 4.1])}, {"y": np.array([1.0, 4.0])}).ok
    False
    >>> output_difference({}, {"y": np.array([1.0])}).max_abs
    inf
    """
    differences = [_difference(outputs.get(name), array) for name, array in reference.items()]
    return OutputDifference(
        max((d.max_abs for d in differences), default=0.0),
        max((d.max_rel for d in differences), default=0.0),
        all(d.ok for d in differences),
    )


def _difference(output: np.ndarray | None, reference: np.ndarray) -> OutputDifference:
    if output is not None and output.dtype.kind in "OSU":
        output = _text(output)
    difference = compare(output, reference, absolute=TOLERANCE, relative=TOLERANCE)
    ok = difference.worst <= 1 and difference.max_rel < RELATIVE_MAX
    return OutputDifference(difference.max_abs, difference.max_rel, ok)


def _text(array: np.ndarray) -> np.ndarray:
    decoded = [value.decode() if isinstance(value, bytes) else str(value) for value in array.ravel()]
    return np.array(decoded, dtype=object).reshape(array.shape)
