"""Tensors as a file that two processes share, and how far one contender's answers are from another's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trisect.runtime.tensors.tensor_spec import Arrays

TOLERANCE = 1e-3
"""How far a float32 value may be off, absolutely plus relatively to the reference's value."""
UNLIKE = 0.1
"""A difference of so large a part of an output's largest magnitude is wrong, however small the output is."""


@dataclass(frozen=True)
class Difference:
    """Answers beside those of the reference."""

    max_abs: float
    """Largest difference in any output; infinite where names, shapes or NaNs differ."""
    max_rel: float
    """The same as a share of the output's largest magnitude."""
    ok: bool
    """Whether every element is within the tolerance."""


def write_tensors(path: Path, arrays: Arrays) -> None:
    """Write tensors of any of ONNX's types."""
    made = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    path.write_bytes(helper.make_graph([], "tensors", [], [], made).SerializeToString())


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read what `write_tensors` wrote."""
    graph = onnx.GraphProto.FromString(path.read_bytes())
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return {name: _text(array) if array.dtype.kind in "OSU" else array for name, array in arrays.items()}


def difference(got: Arrays, wanted: Arrays) -> Difference:
    """Compare answers, output by output.

    Examples
    --------
    >>> difference({"y": np.array([1.0, 4.1])}, {"y": np.array([1.0, 4.0])}).ok
    False
    >>> difference({}, {"y": np.array([1.0])}).max_abs
    inf
    """
    found = [_difference(got[name], array) if name in got else _NOTHING_ALIKE for name, array in wanted.items()]
    return Difference(
        max((d.max_abs for d in found), default=0.0),
        max((d.max_rel for d in found), default=0.0),
        all(d.ok for d in found),
    )


_NOTHING_ALIKE = Difference(float("inf"), float("inf"), False)


def _difference(got: np.ndarray, wanted: np.ndarray) -> Difference:
    if got.shape != wanted.shape:
        return _NOTHING_ALIKE
    if wanted.dtype.kind in "OSU":
        return Difference(0.0, 0.0, True) if np.array_equal(_text(got), _text(wanted)) else _NOTHING_ALIKE
    wide = np.complex128 if wanted.dtype.kind == "c" else np.float64
    one, other = got.astype(wide), wanted.astype(wide)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.where(same, 0.0, np.abs(one - other))
    off = np.where(np.isnan(off), np.inf, off)
    size = np.where(np.isfinite(other), np.abs(other), 0.0)
    max_abs, magnitude = float(off.max(initial=0.0)), float(size.max(initial=0.0))
    max_rel = max_abs / magnitude if magnitude else max_abs
    return Difference(max_abs, max_rel, max_rel < UNLIKE and bool((off <= TOLERANCE * (1 + size)).all()))


def _text(array: np.ndarray) -> np.ndarray:
    decoded = [value.decode() if isinstance(value, bytes) else str(value) for value in array.ravel()]
    return np.array(decoded, dtype=object).reshape(array.shape)
