"""Infers shapes and folds constants in a process of their own, because a crafted model can crash or block both."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper

from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.errors import InvalidModel
from trisect.runtime.forked_calls import call_forked

Inference = Callable[[], tuple[onnx.ModelProto, dict[str, np.ndarray]]]
"""Returns the model with inferred types, and the folded constants."""

_TIME_LIMIT_S, _BYTES_PER_S = 8.0, 100_000
_MEMORY_LIMIT_BYTES, _MEMORY_FACTOR = 800 << 20, 20
"""Limits of inference, and how they grow with the size of the graph without its weights."""


def infer_isolated(infer: Inference, size_bytes: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Call a function that infers shapes in a process of its own.

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

    def run() -> bytes:
        model, folded = infer()
        constants = onnx.GraphProto(initializer=[numpy_helper.from_array(a, name) for name, a in folded.items()])
        inferred = model.SerializeToString()
        return len(inferred).to_bytes(8, "little") + inferred + constants.SerializeToString()

    try:
        result = call_forked(
            run,
            "shape inference",
            _TIME_LIMIT_S + size_bytes / _BYTES_PER_S,
            _MEMORY_LIMIT_BYTES + _MEMORY_FACTOR * size_bytes,
        )
    except ChildProcessFailed as error:
        raise InvalidModel(f"shape inference failed: {error.reason}", remedy="do not trust this model") from error
    end = 8 + int.from_bytes(result[:8], "little")
    constants = onnx.GraphProto.FromString(result[end:]).initializer
    return onnx.ModelProto.FromString(result[8:end]), {t.name: numpy_helper.to_array(t) for t in constants}
