"""Generates random feeds that a model can compute with, the same for the same seed."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Protocol

import numpy as np
import onnx

from ..free_memory import check_free
from .containers import container_of, pack, unpack
from .dtypes import bits_of, dtype_of
from .input_roles import DataFlow, InputRole
from .integer_bounds import IntegerBound, integer_bound
from .tensor_spec import UNKNOWN_RANK, TensorSpec

_WORDS = ("text", "two words", "Monday", "a", "")
_EXTREMES = (np.inf, -np.inf, np.nan, 6e4, -1e6, 0.0, 1e30, -3e38, 1e-42, -0.0)
_INTEGER_MAX = 40
_LIST_LENGTH = 2
_END = (1 << 31) - 1
"""Beyond the end of any tensor, in 32 bits."""
_FULL_WIDTH_SHARE = 0.5
_COMPARED_SHARE = 0.25
_DEFAULT_SHAPE = (2, 3)
"""Shape of tensors that the model leaves open: elements of a list, those of unknown rank."""


class BoundInputs(Protocol):
    """The inputs of a plan or a graph, with the sizes of their symbolic dimensions."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def shapes(self) -> Mapping[str, int]: ...


def generate_feeds(
    model: onnx.ModelProto, plan: BoundInputs, seed: int = 0, *, narrow: bool = False
) -> dict[str, np.ndarray]:
    """Return random feeds that a model can compute with, the same for the same seed.

    Floats are normally distributed; indices into a table are within the table; shapes and other arguments are valid.
    Integers that the model only computes with range over what does not overflow, far beyond 24 or 32 bits; others are 0
    or 1, so that masks, flags and lengths are valid, or a constant that the model compares them with. Symbolic
    dimensions have the plan's sizes, else 1.
    """
    _check_memory(plan)
    rng = np.random.default_rng(seed)
    flow = DataFlow(model, plan.inputs, plan.shapes)
    return {spec.name: _generate(spec, plan.shapes, flow, rng, narrow=narrow) for spec in plan.inputs}


def _check_memory(plan: BoundInputs) -> None:
    """Check that memory for the feeds is free before one is made: their shapes may come from anywhere.

    Raises
    ------
    OutOfMemory
    """
    size_bytes = 0
    for spec in plan.inputs:
        if container_of(spec.dtype) is None and spec.shape != UNKNOWN_RANK:
            sizes = [dim if isinstance(dim, int) else plan.shapes.get(dim, 1) for dim in spec.shape]
            # Random numbers have 64 bits before they are converted.
            size_bytes += prod(sizes) * (8 + dtype_of(spec.dtype).itemsize)
    check_free(size_bytes, "random inputs of the model's shapes", "give smaller --shape, or inputs with --feeds")


def random_value(dtype: str, shape: tuple[int, ...], rng: np.random.Generator, *, extremeness: int = 0) -> np.ndarray:
    """Return random values of any dtype, containers included.

    Parameters
    ----------
    dtype : str
    shape : tuple of int
    rng : numpy.random.Generator
    extremeness : {0, 1, 2}
        0: small numbers, integers of 0 and 1; 1: also infinities, NaN, huge numbers and larger integers;
        2: also negative integers, and rows of minus infinity only.

    Examples
    --------
    >>> random_value("seq(int64)", (), np.random.default_rng(0)).shape
    (2,)
    """
    container = container_of(dtype)
    if container is not None:
        return _random_container(dtype, *container, rng, extremeness)
    numpy_dtype = dtype_of(dtype)
    if numpy_dtype.kind == "O":
        return np.asarray(rng.choice(_WORDS, shape)).astype(object)
    if numpy_dtype.kind == "b":
        return np.full(shape, extremeness == 1) if extremeness else np.asarray(rng.integers(0, 2, shape)).astype(bool)
    if numpy_dtype.kind in "iu" or dtype.startswith(("int", "uint")):
        # Not the full range: a number may be a size, for which memory would be allocated.
        maximum = (1 << (bits_of(dtype) - 1)) - 1 if bits_of(dtype) <= 8 else _INTEGER_MAX
        low, high = (0 if extremeness < 2 or dtype.startswith("u") else -maximum - 1), (maximum if extremeness else 1)
        return np.asarray(rng.integers(low, high + 1, shape)).astype(numpy_dtype)
    values = np.asarray(rng.standard_normal(shape))
    if numpy_dtype.kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    if extremeness and values.size:
        count = min(values.size, len(_EXTREMES))
        values.reshape(-1)[rng.permutation(values.size)[:count]] = _EXTREMES[:count]
        if extremeness > 1 and values.ndim > 1:
            values[..., -1, :] = -np.inf  # as in masks
    if dtype == "float8_e8m0fnu":  # it has no sign
        values = np.abs(values)
    with np.errstate(all="ignore"):
        return np.asarray(values.astype(numpy_dtype))


def _random_container(dtype: str, kind: str, content: str, rng: np.random.Generator, extremeness: int) -> np.ndarray:
    if kind == "map":
        key, _, value = content.partition(",")
        keys = _WORDS[:_LIST_LENGTH] if key == "object" else range(_LIST_LENGTH)
        return pack(dtype, {k: random_value(value, (), rng).item() for k in keys})
    if kind == "optional":
        return pack(dtype, unpack(content, random_value(content, _DEFAULT_SHAPE, rng, extremeness=extremeness)))
    elements = (random_value(content, _DEFAULT_SHAPE, rng, extremeness=extremeness) for _ in range(_LIST_LENGTH))
    return pack(dtype, [unpack(content, element) for element in elements])


def _generate(
    spec: TensorSpec, sizes: Mapping[str, int], flow: DataFlow, rng: np.random.Generator, *, narrow: bool
) -> np.ndarray:
    if spec.shape == UNKNOWN_RANK or container_of(spec.dtype) is not None:
        return random_value(spec.dtype, _DEFAULT_SHAPE, rng)
    shape = tuple(dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in spec.shape)
    is_integer = spec.dtype.startswith(("int", "uint"))
    if not is_integer and not spec.dtype.startswith(("float", "bfloat")):
        return random_value(spec.dtype, shape, rng)
    role = flow.role(spec.name)
    if role.limit is not None:
        return np.asarray(rng.integers(0, role.limit, shape)).astype(dtype_of(spec.dtype))
    if role.argument is not None:
        return _argument(role, shape).astype(dtype_of(spec.dtype))
    if not is_integer:
        return random_value(spec.dtype, shape, rng)
    values = _integers(spec, shape, flow, rng, narrow=narrow)
    if role.compared:
        # Or one branch of the model is never taken.
        is_one = values.size == 1
        chosen = np.asarray(role.compared[:1] if is_one else rng.choice(role.compared, shape)).reshape(-1)
        share = rng.random(shape) < (1 if is_one else _COMPARED_SHARE)
        values = np.where(share, chosen.reshape(shape), values).astype(values.dtype)
    return values


def _argument(role: InputRole, shape: tuple[int, ...]) -> np.ndarray:
    if role.argument == "count":
        return np.arange(int(np.prod(shape))).reshape(shape)
    if role.argument == "shape" and role.data_shape is not None and np.prod(shape):
        values = np.ones(shape, np.int64)
        values.reshape(-1)[-1] = int(np.prod(role.data_shape))
        return values
    return np.full(shape, {"zeros": 0, "end": _END}.get(str(role.argument), 1))


def _integers(
    spec: TensorSpec, shape: tuple[int, ...], flow: DataFlow, rng: np.random.Generator, *, narrow: bool
) -> np.ndarray:
    dtype, is_one = dtype_of(spec.dtype), int(np.prod(shape)) == 1
    bound = integer_bound(flow, spec.name, spec.dtype, narrow=narrow)
    if bound is not None and not (is_one and bound.becomes_float):
        return _wide(bound, shape, rng, is_signed=spec.dtype.startswith("int")).astype(dtype)
    if is_one:  # a length or a flag
        return np.ones(shape, dtype)
    return np.asarray(rng.integers(0, 256 if spec.dtype == "uint8" else 2, shape)).astype(dtype)


def _wide(bound: IntegerBound, shape: tuple[int, ...], rng: np.random.Generator, *, is_signed: bool) -> np.ndarray:
    """Return integers of any number of bits up to a bound, half of them of the most bits."""
    most = bound.magnitude.bit_length()
    bits = np.where(rng.random(shape) < _FULL_WIDTH_SHARE, most, rng.integers(1, most + 1, shape))
    raw = rng.integers(0, 1 << 63, shape, dtype=np.uint64)
    values = (raw | np.uint64(1 << 62)) >> (63 - np.minimum(bits, 63)).astype(np.uint64)
    values = np.minimum(values, np.uint64(bound.magnitude))
    if bound.is_divisor:
        values = np.maximum(values, np.uint64(1))
    if bound.is_divisor or bound.becomes_float or not is_signed:
        return np.asarray(values)
    signed = values.astype(np.int64)
    return np.asarray(np.where(rng.random(shape) < 1 / 2, -signed, signed))
