"""Made-up inputs that a model can compute with, the same for the same seed."""

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
_LARGEST_INTEGER = 40
_LIST_LENGTH = 2
_SOME_SHAPE = (2, 3)
"""Of tensors that the model says nothing about: the elements of a list, those of unknown rank."""


class Bound(Protocol):
    """A plan, or a graph: inputs, and the sizes of their symbolic dimensions."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def shapes(self) -> Mapping[str, int]: ...


def generate_feeds(model: onnx.ModelProto, plan: Bound, seed: int = 0) -> dict[str, np.ndarray]:
    """Feeds that a model can compute with, the same for the same seed.

    Floats are drawn from a normal distribution; indices into a table stay within the table; other integers are 0 or 1,
    so that masks, flags and lengths make sense; symbolic dimensions take the plan's shapes, else 1.
    """
    rng = np.random.default_rng(seed)
    limits = dict(_index_limits(model))
    return {spec.name: _generate(spec, plan.shapes, limits.get(spec.name), rng) for spec in plan.inputs}


def draw(dtype: str, shape: tuple[int, ...], rng: np.random.Generator, *, wildness: int = 0) -> np.ndarray:
    """Values of any dtype, lists too.

    Parameters
    ----------
    dtype : str
    shape : tuple of int
    rng : numpy.random.Generator
    wildness : {0, 1, 2}
        0: small numbers, integers of 0 and 1; 1: infinities, NaN and huge numbers among them, and larger integers;
        2: negative integers too, and rows of nothing but minus infinity.

    Examples
    --------
    >>> draw("seq(int64)", (), np.random.default_rng(0)).shape
    (2,)
    """
    found = container_of(dtype)
    if found is not None:
        return _draw_container(dtype, *found, rng, wildness)
    wanted = dtype_of(dtype)
    if wanted.kind == "O":
        return np.asarray(rng.choice(_WORDS, shape)).astype(object)
    if wanted.kind == "b":
        return np.full(shape, wildness == 1) if wildness else np.asarray(rng.integers(0, 2, shape)).astype(bool)
    if wanted.kind in "iu" or dtype.startswith(("int", "uint")):
        # Not the widest: a number may be a size, of which much memory would be made.
        most = (1 << (bits_of(dtype) - 1)) - 1 if bits_of(dtype) <= 8 else _LARGEST_INTEGER
        low, high = (0 if wildness < 2 or dtype.startswith("u") else -most - 1), (most if wildness else 1)
        return np.asarray(rng.integers(low, high + 1, shape)).astype(wanted)
    values = np.asarray(rng.standard_normal(shape))
    if wanted.kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    if wildness and values.size:
        count = min(values.size, len(_EXTREMES))
        values.reshape(-1)[rng.permutation(values.size)[:count]] = _EXTREMES[:count]
        if wildness > 1 and values.ndim > 1:
            values[..., -1, :] = -np.inf  # as masks have it
    with np.errstate(all="ignore"):
        return np.asarray(values.astype(wanted))


def _draw_container(dtype: str, kind: str, content: str, rng: np.random.Generator, wildness: int) -> np.ndarray:
    if kind == "map":
        key, _, value = content.partition(",")
        keys = _WORDS[:_LIST_LENGTH] if key == "object" else range(_LIST_LENGTH)
        return pack(dtype, {k: draw(value, (), rng).item() for k in keys})
    if kind == "optional":
        return pack(dtype, unpack(content, draw(content, _SOME_SHAPE, rng, wildness=wildness)))
    elements = (draw(content, _SOME_SHAPE, rng, wildness=wildness) for _ in range(_LIST_LENGTH))
    return pack(dtype, [unpack(content, element) for element in elements])


def _generate(spec: TensorSpec, sizes: Mapping[str, int], limit: int | None, rng: np.random.Generator) -> np.ndarray:
    if spec.shape == UNKNOWN_RANK or container_of(spec.dtype) is not None:
        return draw(spec.dtype, _SOME_SHAPE, rng)
    shape = tuple(dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in spec.shape)
    dtype = dtype_of(spec.dtype)
    if dtype.kind in "iu":
        if int(np.prod(shape)) == 1 and limit is None:  # a length or a flag
            return np.ones(shape, dtype)
        return np.asarray(rng.integers(0, limit or (256 if spec.dtype == "uint8" else 2), shape)).astype(dtype)
    return draw(spec.dtype, shape, rng)


def _index_limits(model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """Inputs that a Gather looks up in a table of known size, with that size."""
    tables = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in tables:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            yield node.input[1], tables[node.input[0]][axis]
