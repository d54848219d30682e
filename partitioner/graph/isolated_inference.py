"""Infers shapes and folds constants in a process of their own, because a crafted model can crash or block both."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper

from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.errors import InvalidModel
from trisect.runtime.forked_calls import call_forked

log = logging.getLogger(__name__)

Inference = Callable[[bool], tuple[onnx.ModelProto, dict[str, np.ndarray]]]
"""Takes whether onnx propagates data, and returns the model with inferred types, and the folded constants."""

_TIME_LIMIT_S, _TIME_LIMIT_MAX_S, _BYTES_PER_S = 3.0, 5.0, 100_000
_MEMORY_LIMIT_BYTES, _MEMORY_FACTOR = 800 << 20, 20
"""Limits of inference, and how they grow with the size of the graph without its weights."""


def infer_isolated(infer: Inference, size_bytes: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Call a function that infers shapes in a process of its own.

    Data propagation takes memory for each element of a one-dimensional tensor, and can crash: where that fails, shapes
    are inferred without it.

    Parameters
    ----------
    infer : callable
    size_bytes : int
        Of the graph without its weights.

    Raises
    ------
    InvalidModel
        When it crashes, or exceeds the limits of time and memory.
    """
    try:
        return _called(infer, True, size_bytes)
    except ChildProcessFailed as error:
        log.info("shapes are inferred without data propagation: %s", error)
    try:
        return _called(infer, False, size_bytes)
    except ChildProcessFailed as error:
        raise InvalidModel(f"shape inference failed: {error.reason}", remedy="do not trust this model") from error


def _called(infer: Inference, propagates: bool, size_bytes: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    def run() -> bytes:
        model, folded = infer(propagates)
        constants = onnx.GraphProto(initializer=[numpy_helper.from_array(a, name) for name, a in folded.items()])
        inferred = model.SerializeToString()
        return len(inferred).to_bytes(8, "little") + inferred + constants.SerializeToString()

    limit_s = (_TIME_LIMIT_S if propagates else _TIME_LIMIT_MAX_S) + size_bytes / _BYTES_PER_S
    result = call_forked(run, "shape inference", limit_s, _MEMORY_LIMIT_BYTES + _MEMORY_FACTOR * size_bytes)
    end = 8 + int.from_bytes(result[:8], "little")
    constants = onnx.GraphProto.FromString(result[end:]).initializer
    return onnx.ModelProto.FromString(result[8:end]), {t.name: numpy_helper.to_array(t) for t in constants}
