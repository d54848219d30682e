"""Generates random feeds that a model can compute with, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import onnx

from .containers import container_of, pack, unpack
from .dtypes import bits_of, dtype_of
from .tensor_spec import UNKNOWN_RANK, TensorSpec

_WORDS = ("text", "two words", "Monday", "a", "")
_EXTREMES = (np.inf, -np.inf, np.nan, 6e4, -1e6, 0.0, 1e30, -3e38, 1e-42, -0.0)
_INTEGER_MAX = 40
_LIST_LENGTH = 2
_DEFAULT_SHAPE = (2, 3)
"""Shape of tensors that the model leaves open: elements of a list, those of unknown rank."""


class BoundInputs(Protocol):
    """The inputs of a plan or a graph, with the sizes of their symbolic dimensions."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def shapes(self) -> Mapping[str, int]: ...


def generate_feeds(model: onnx.ModelProto, plan: BoundInputs, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random feeds that a model can compute with, the same for the same seed.

    Floats are normally distributed; indices into a table are within the table; other integers are 0 or 1, so that
    masks, flags and lengths are valid; symbolic dimensions have the plan's sizes, else 1.
    """
    rng = np.random.default_rng(seed)
    limits = dict(_index_limits(model))
    return {spec.name: _generate(spec, plan.shapes, limits.get(spec.name), rng) for spec in plan.inputs}


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


def _generate(spec: TensorSpec, sizes: Mapping[str, int], limit: int | None, rng: np.random.Generator) -> np.ndarray:
    if spec.shape == UNKNOWN_RANK or container_of(spec.dtype) is not None:
        return random_value(spec.dtype, _DEFAULT_SHAPE, rng)
    shape = tuple(dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in spec.shape)
    dtype = dtype_of(spec.dtype)
    if dtype.kind in "iu":
        if int(np.prod(shape)) == 1 and limit is None:  # a length or a flag
            return np.ones(shape, dtype)
        return np.asarray(rng.integers(0, limit or (256 if spec.dtype == "uint8" else 2), shape)).astype(dtype)
    return random_value(spec.dtype, shape, rng)


def _index_limits(model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """Yield the inputs that a Gather looks up in a table of known size, with that size."""
    tables = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in tables:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            yield node.input[1], tables[node.input[0]][axis]
