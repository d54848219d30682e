"""Comparison of one contender's outputs with another's, and values as a file that two processes share.

Values are of any ONNX type: tensors, lists, maps, optionals. Systems return them as they like: trisect packs containers
into object arrays (`trisect.runtime.tensors.containers`), ONNX Runtime returns Python's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trisect.runtime.tensors.value_difference import compare
from trisect.runtime.workers.messages import deserialise, serialise

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


def value_bytes(values: Mapping[str, Any]) -> bytes:
    """Return values of any of ONNX's types as bytes."""
    return msgspec.msgpack.encode([[name, serialise(value)] for name, value in values.items()])


def write_tensors(path: Path, values: Mapping[str, Any]) -> None:
    """Write values of any of ONNX's types."""
    path.write_bytes(value_bytes(values))


def read_tensors(path: Path) -> dict[str, Any]:
    """Read what `write_tensors` wrote."""
    return {name: deserialise(value) for name, value in msgspec.msgpack.decode(path.read_bytes())}


def output_difference(outputs: Mapping[str, Any], reference: Mapping[str, Any]) -> OutputDifference:
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


def _difference(output: Any, reference: Any) -> OutputDifference:
    difference = compare(_in_form_of(reference, output), reference, absolute=TOLERANCE, relative=TOLERANCE)
    ok = difference.worst <= 1 and difference.max_rel < RELATIVE_MAX
    return OutputDifference(difference.max_abs, difference.max_rel, ok)


def _in_form_of(reference: Any, output: Any) -> Any:
    """Return a container as Python's own where the reference is one; tensors unchanged."""
    if not isinstance(output, np.ndarray) or output.dtype.kind != "O":
        return output
    if output.ndim == 0 and not isinstance(output.item(), (str, bytes)):
        return _in_form_of(reference, output.item())
    return list(output) if output.ndim == 1 and isinstance(reference, (list, tuple)) else output
