"""Finds outputs of a model that its own rounding changes: they prove nothing about a split.

A model that sorts, selects or rounds (TopK, ArgMax, NonMaxSuppression) may turn a difference in the last bit of a float
into another answer, above all on generated inputs, where scores are nearly equal. So the whole model runs again with
floats changed by about that much: an output that then differs as much as the split's did is not evidence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from ..device import Device
from ..errors import TrisectError
from ..tensors.containers import unpack
from ..tensors.tensor_spec import Arrays, TensorSpec
from ..tensors.value_difference import compare
from .tolerances import TOLERANCES, Tolerance
from .whole_model import WholeModel, run_whole

_NOISE, _NOISE_OF_SMALL_FLOATS = 1e-5, 1e-3
"""Relative change of each float, about the rounding of a few operators."""
_RUNS = 3
_WEIGHT_BYTES_MAX = 256 << 20


def sensitive_outputs(
    model: WholeModel,
    device: Device,
    feeds: Arrays,
    outputs: Sequence[TensorSpec],
    whole: Arrays,
    tolerance: Tolerance,
) -> set[str]:
    """Return the outputs that leave the tolerance when the floats of the feeds and the weights change a little.

    Parameters
    ----------
    model, device
        What ran, and where.
    feeds, whole : mapping of str to array
        Its inputs and its outputs.
    outputs : sequence of TensorSpec
        Those in question.
    """
    noise = _NOISE if tolerance.value <= TOLERANCES["float32"] else _NOISE_OF_SMALL_FLOATS
    sensitive: set[str] = set()
    for seed in range(_RUNS):
        rng = np.random.default_rng(seed)
        noisy = WholeModel(_with_noise(model.proto, noise, rng), model.folder)
        try:
            _, changed = run_whole(noisy, [device], (), _noisy_feeds(feeds, noise, rng))
        except TrisectError:
            break
        for spec in outputs:
            one, other = unpack(spec.dtype, changed[spec.name]), unpack(spec.dtype, whole[spec.name])
            difference = compare(one, other, absolute=tolerance.absolute(other), relative=tolerance.relative(other))
            if difference.worst > 1:
                sensitive.add(spec.name)
    return sensitive


def _noisy_feeds(feeds: Arrays, noise: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: _noisy(array, noise, rng) if array.dtype.kind == "f" else array for name, array in feeds.items()}


def _noisy(array: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    factors = 1 + noise * rng.uniform(-1, 1, array.shape)
    with np.errstate(all="ignore"):
        return np.asarray(array * factors).astype(array.dtype)


def _with_noise(model: onnx.ModelProto, noise: float, rng: np.random.Generator) -> onnx.ModelProto:
    """Return a copy of the model with changed weights of rank 2 or more, as far as they are in the file itself."""
    if model.ByteSize() > _WEIGHT_BYTES_MAX:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        is_inside = tensor.data_location != onnx.TensorProto.EXTERNAL
        if is_inside and tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            noisy = _noisy(numpy_helper.to_array(tensor), noise, rng)
            tensor.CopyFrom(numpy_helper.from_array(noisy, tensor.name))
    return changed
