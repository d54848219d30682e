"""Comparison of one contender's outputs with another's, and tensors as a file that two processes share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trisect.runtime.tensors.tensor_spec import Arrays

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
    differences = [
        _difference(outputs[name], array) if name in outputs else _INCOMPARABLE for name, array in reference.items()
    ]
    return OutputDifference(
        max((d.max_abs for d in differences), default=0.0),
        max((d.max_rel for d in differences), default=0.0),
        all(d.ok for d in differences),
    )


_INCOMPARABLE = OutputDifference(float("inf"), float("inf"), False)


def _difference(output: np.ndarray, reference: np.ndarray) -> OutputDifference:
    if output.shape != reference.shape:
        return _INCOMPARABLE
    if reference.dtype.kind in "OSU":
        return OutputDifference(0.0, 0.0, True) if np.array_equal(_text(output), _text(reference)) else _INCOMPARABLE
    wide = np.complex128 if reference.dtype.kind == "c" else np.float64
    one, other = output.astype(wide), reference.astype(wide)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(same, 0.0, np.abs(one - other))
    error = np.where(np.isnan(error), np.inf, error)
    size = np.where(np.isfinite(other), np.abs(other), 0.0)
    max_abs, magnitude = float(error.max(initial=0.0)), float(size.max(initial=0.0))
    max_rel = max_abs / magnitude if magnitude else max_abs
    return OutputDifference(max_abs, max_rel, max_rel < RELATIVE_MAX and bool((error <= TOLERANCE * (1 + size)).all()))


def _text(array: np.ndarray) -> np.ndarray:
    decoded = [value.decode() if isinstance(value, bytes) else str(value) for value in array.ravel()]
    return np.array(decoded, dtype=object).reshape(array.shape)
