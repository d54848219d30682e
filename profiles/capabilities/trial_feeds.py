"""Generates inputs that bring out the edges of an operator, within what the specification of ONNX defines.

Beside ordinary numbers: halves (rounding), ties, large numbers, the limits of integer dtypes, and, where the model can
meet them, integers beyond 32 bits, infinities and NaN. What ONNX leaves open is not generated: indices out of range,
division by zero, shifts beyond the width, numbers that a cast cannot represent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trisect.runtime.checks.whole_model import RANDOM_OPERATORS
from trisect.runtime.tensors.containers import container_of
from trisect.runtime.tensors.dtypes import bits_of, dtype_of
from trisect.runtime.tensors.onnx_types import declared_spec
from trisect.runtime.tensors.synthetic_feeds import random_value
from trisect.runtime.tensors.tensor_spec import UNKNOWN_RANK, TensorSpec

from .trial_numbers import SPECIAL, castable, numbers, within_dtype

QUANTISING_OPERATORS = frozenset(
    "QuantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul QLinearAdd QLinearMul QLinearSigmoid "
    "QLinearLeakyRelu QLinearGlobalAveragePool QLinearAveragePool QLinearConcat QLinearSoftmax QGemm".split()
)
"""Operators that round to integer steps: at a half, the last digit of a float decides the step."""
_DRAWS = ("ordinary", "ordinary", "small", "halves", "ties", "large", "limits")
_IN_WORDS = {
    "ordinary": "ordinary numbers",
    "small": "small numbers",
    "large": "large numbers",
    "limits": "the limits of the dtype",
}
_SIZES_OF_OPEN_DIMS = 3

_ROLES: Mapping[tuple[str, int], str] = {
    ("Gather", 1): "index", ("GatherElements", 1): "index", ("GatherND", 1): "index of rows", ("OneHot", 0): "index",
    ("ScatterElements", 1): "distinct index", ("Scatter", 1): "distinct index", ("ScatterND", 1): "index of rows",
    ("MaxUnpool", 1): "index", ("OneHot", 1): "size", ("BitShift", 1): "shift", ("Div", 1): "divisor",
    ("Mod", 1): "divisor", ("Pow", 1): "exponent", ("Reshape", 1): "shape", ("Expand", 1): "shape",
    ("Tile", 1): "size", ("ConstantOfShape", 0): "size", ("Slice", 1): "zero", ("Slice", 2): "end",
    ("Slice", 3): "axes", ("Slice", 4): "one", ("Pad", 1): "flag", ("Pad", 3): "axes", ("Unsqueeze", 1): "axes",
    ("Squeeze", 1): "axes of one", ("TopK", 1): "one", ("Split", 1): "parts",
    ("Resize", 2): "factor", ("Resize", 3): "size",
    ("CumSum", 1): "zero", ("Trilu", 1): "flag", ("QuantizeLinear", 1): "scale", ("DequantizeLinear", 1): "scale",
    ("Cast", 0): "castable", ("CastLike", 0): "castable", ("LSTM", 4): "one", ("GRU", 4): "one", ("RNN", 4): "one",
    ("NonMaxSuppression", 2): "size", ("NonMaxSuppression", 3): "half", ("NonMaxSuppression", 4): "zero",
    ("RoiAlign", 2): "zero", ("BatchNormalization", 4): "scale", ("Dropout", 1): "half", ("GridSample", 1): "half",
    ("QLinearMatMul", 1): "scale", ("QLinearMatMul", 4): "scale", ("QLinearMatMul", 6): "scale",
    ("QLinearConv", 1): "scale", ("QLinearConv", 4): "scale", ("QLinearConv", 6): "scale",
    ("Attention", 6): "size", ("HannWindow", 0): "size", ("HammingWindow", 0): "size", ("BlackmanWindow", 0): "size",
    ("CenterCropPad", 1): "size", ("STFT", 1): "one", ("STFT", 3): "size", ("MaxUnpool", 2): "shape",
    ("NegativeLogLikelihoodLoss", 1): "class", ("SoftmaxCrossEntropyLoss", 1): "class", ("RotaryEmbedding", 3): "one",
    ("Range", 2): "one", ("DFT", 1): "size", ("DFT", 2): "axes", ("Compress", 1): "flag", ("SequenceAt", 1): "zero",
    ("SequenceErase", 1): "zero", ("SequenceInsert", 2): "zero", ("ReverseSequence", 1): "size",
    **{(f"Reduce{kind}", 1): "axes" for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum",
       "LogSumExp", "SumSquare")},
}  # fmt: skip
"""Operator and input -> what is defined there."""
UNLIMITED_ROLES = frozenset({"castable", "divisor", "exponent"})
"""Roles of inputs that may hold any number of their dtype; the others are indices, sizes, factors."""


def role_of(op_type: str, position: int) -> str:
    """Return what an input of an operator stands for; empty for plain data.

    Examples
    --------
    >>> role_of("Gather", 1), role_of("Gather", 0)
    ('index', '')
    """
    return _ROLES.get((op_type, position), "")


def is_random(model: onnx.ModelProto) -> bool:
    """Return whether results differ from run to run: random operators, and dropout in training."""
    return any(is_random_operator(node.op_type, node.input) for node in model.graph.node)


def is_random_operator(op_type: str, inputs: Sequence[object]) -> bool:
    """Return whether an operator's results differ from run to run.

    Examples
    --------
    >>> is_random_operator("Dropout", ["x"]), is_random_operator("Dropout", ["x", "ratio", "training"])
    (False, True)
    """
    return op_type in RANDOM_OPERATORS or (op_type == "Dropout" and len(inputs) > 2 and bool(inputs[2]))


@dataclass(frozen=True)
class TrialFeeds:
    """Generates inputs for a small model."""

    model: onnx.ModelProto
    kinds: Mapping[str, str]
    """Input or output -> letters: ``w`` for numbers beyond 32 bits, ``+``, ``-`` and ``n`` for infinities and NaN."""
    seed: int

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs that are not initialisers."""
        constants = {tensor.name for tensor in self.model.graph.initializer}
        return tuple(declared_spec(v, "the model") for v in self.model.graph.input if v.name not in constants)

    @cached_property
    def _dtypes(self) -> Mapping[str, str]:
        return {spec.name: spec.dtype for spec in self.inputs}

    @cached_property
    def _is_wide(self) -> bool:
        return any("w" in kind for kind in self.kinds.values())

    @cached_property
    def _casts_floats(self) -> bool:
        """Whether it casts to floats: then infinities and NaN are values like others, and saturation is defined."""
        casts = [node for node in self.model.graph.node if node.op_type in ("Cast", "CastLike")]
        return len(self.model.graph.node) == len(casts) and all("float" in self._cast_target(node) for node in casts)

    def draws(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yield what is drawn, in words, with feeds."""
        labels = [*_DRAWS]
        if self._is_wide:
            labels += ["numbers beyond 32 bits"] * 2
        if any(set(kind) & set(SPECIAL) for kind in self.kinds.values()) or self._casts_floats:
            labels += ["infinities and NaN"] * 2
        if not self.inputs:
            labels = labels[:1]
        for number, label in enumerate(labels):
            rng = np.random.default_rng((self.seed, number))
            with np.errstate(all="ignore"):
                yield _IN_WORDS.get(label, label), {spec.name: self._value(spec, label, rng) for spec in self.inputs}

    def _value(self, spec: TensorSpec, label: str, rng: np.random.Generator) -> np.ndarray:
        node, position = self._reader(spec.name)
        role = "" if node is None else role_of(node.op_type, position)
        shape = self._shape(spec)
        if container_of(spec.dtype) is not None or dtype_of(spec.dtype).kind == "O":
            return random_value(spec.dtype, shape, rng)
        if node is not None and role and role not in UNLIMITED_ROLES:
            return self._restricted(node, role, spec, shape, label, rng)
        kind = self.kinds.get(spec.name, "")
        if role == "castable" and node is not None:
            kind += self.kinds.get(node.output[0], "") + ("+-n" if self._casts_floats else "")
        if label == "limits" and self._is_wide:
            label = "limits beyond 32 bits"
        values = numbers(spec.dtype, shape, label, kind, rng)
        if role == "castable" and node is not None:
            values = castable(values, self._cast_target(node))
        elif role == "divisor":
            values = np.where(values == 0, np.ones_like(values), values)
        elif role == "exponent":
            is_whole = values.dtype.kind in "iu" or self._dtypes.get(node.input[0] if node else "", "").startswith(
                ("int", "uint")
            )
            values = np.clip(values, 0 if is_whole else -3, 3)
        elif node is not None and values.dtype.kind in "iu":
            count = values.size // max(int(np.prod(self._shapes.get(node.output[0], ()))), 1)
            values = within_dtype(values, node.op_type, spec.dtype, count)
        return np.asarray(values, dtype=dtype_of(spec.dtype))

    def _restricted(
        self,
        node: onnx.NodeProto,
        role: str,
        spec: TensorSpec,
        shape: tuple[int, ...],
        label: str,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Return values of an input that is an index, a size, a scale, ..."""
        dtype = dtype_of(spec.dtype)
        data = self._shapes.get(node.input[0], ())
        values: Any
        if role in ("index", "distinct index"):
            size = self._index_limit(node, data)
            is_positive = spec.dtype.startswith("u") or node.op_type == "MaxUnpool" or label in ("ties", "ordinary")
            low = 0 if is_positive else -size
            values = rng.integers(low, size, shape) if size else np.zeros(shape)
            if role == "distinct index" and shape:
                axis = _axis(node, len(shape))
                values = np.argsort(rng.random((*shape[:axis], max(size, shape[axis]), *shape[axis + 1 :])), axis)
                values = np.take(values, range(shape[axis]), axis)
        elif role == "class":
            values = rng.integers(0, data[1] if len(data) > 1 else 1, shape)
        elif role == "index of rows":
            values = _rows(data, shape, rng)
        elif role == "shape":
            target = self._shapes.get(node.output[0], ())
            values = target if len(target) == int(np.prod(shape)) else np.ones(shape)
        elif role == "shift":
            values = rng.integers(0, bits_of(spec.dtype), shape)
        elif role == "axes":
            rank, count = max(len(data), 1), int(np.prod(shape))
            values = np.resize(np.sort(rng.permutation(rank)[:count]), shape)
        elif role == "axes of one":
            values = np.resize([axis for axis, size in enumerate(data) if size == 1] or [0], shape)
        elif role == "parts":
            count, total = max(int(np.prod(shape)), 1), data[_axis(node, len(data))] if data else 0
            values = np.diff(np.arange(count + 1) * total // count)
        elif role == "end":
            values = rng.integers(1, 4, shape)
        elif role == "size":
            values = rng.integers(1, 3, shape)
        elif role == "flag":
            values = rng.integers(0, 2, shape)
        elif role == "factor":
            last = 0.6 if label in ("small", "halves") else 2.0
            values = np.resize([1.0, 1.0, last, last][-max(int(np.prod(shape)), 1) :], shape)
        elif role == "scale":
            values = 0.01 + rng.random(shape) / 10
        elif role == "half":
            values = rng.random(shape)
        else:
            values = np.full(shape, 1 if role == "one" else 0)
        return np.asarray(values).astype(dtype).reshape(shape)

    @cached_property
    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        shapes = {tensor.name: tuple(tensor.dims) for tensor in self.model.graph.initializer}
        for value in (*self.model.graph.input, *self.model.graph.output):
            if value.name not in shapes and value.type.HasField("tensor_type"):
                shapes[value.name] = self._shape(declared_spec(value, "the model"))
        return shapes

    @staticmethod
    def _shape(spec: TensorSpec) -> tuple[int, ...]:
        if spec.shape == UNKNOWN_RANK:
            return (2, 3)
        return tuple(dim if isinstance(dim, int) else _SIZES_OF_OPEN_DIMS for dim in spec.shape)

    def _reader(self, name: str) -> tuple[onnx.NodeProto | None, int]:
        for node in self.model.graph.node:
            if name in node.input:
                return node, list(node.input).index(name)
        return None, 0

    def _index_limit(self, node: onnx.NodeProto, data: Sequence[int]) -> int:
        if node.op_type == "OneHot":
            depth = next((t for t in self.model.graph.initializer if t.name == node.input[1]), None)
            return 2 if depth is None else int(numpy_helper.to_array(depth).reshape(-1)[0])
        if node.op_type == "MaxUnpool":
            return int(np.prod(data)) if data else 0
        return data[_axis(node, len(data))] if data else 0

    def _cast_target(self, node: onnx.NodeProto) -> str:
        if node.op_type == "Cast":
            return str(helper.tensor_dtype_to_np_dtype(_attribute(node, "to", onnx.TensorProto.FLOAT)).name)
        typed = {v.name: v.type.tensor_type.elem_type for v in (*self.model.graph.output, *self.model.graph.input)}
        return str(helper.tensor_dtype_to_np_dtype(typed.get(node.output[0]) or onnx.TensorProto.FLOAT).name)


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _axis(node: onnx.NodeProto, rank: int) -> int:
    axis = _attribute(node, "axis", 0)
    return axis % rank if rank else 0


def _rows(data: Sequence[int], shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return distinct indices of rows, as far as there are enough of them."""
    width = shape[-1] if shape else 0
    limits = tuple(data[:width])
    total = int(np.prod(limits)) if limits else 0
    count = int(np.prod(shape[:-1]))
    if not total or len(limits) < width:
        return np.zeros(shape, np.int64)
    chosen = rng.permutation(total)[np.arange(count) % total]
    return np.stack(np.unravel_index(chosen, limits), axis=-1).reshape(shape)
