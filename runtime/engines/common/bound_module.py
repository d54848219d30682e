"""Runs a module into preallocated memory, so that a stream of items allocates nothing.

An engine that allocates its outputs takes fresh memory for each run, which the system provides page by page: for large
tensors this costs more than many operators. Where the shapes of the outputs are known before the run, the module is
bound to given memory instead (`Module.bind`), and the binding is cached for the next time that this memory is used.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from ...errors import TrisectError
from ...tensors.conversions import ConversionLog
from ...tensors.dtypes import dtype_of
from ...tensors.tensor_spec import UNKNOWN_RANK, Arrays, TensorSpec
from ..base import Binding, Module

_BINDINGS_MAX = 32
"""Cached for one module: more than any window of items in flight needs."""


class ExpectedOutputs(NamedTuple):
    """The dtypes and shapes of a run's outputs, known before it."""

    kinds: Mapping[str, tuple[np.dtype, tuple[int, ...]]]
    """Output -> dtype and shape."""
    size_bytes: int
    """Of all of them."""


class BoundModule:
    """A module and a cache of its bindings, by the memory that they use."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.converts: bool = getattr(module, "converts", False)
        """Whether the module may convert tensors, and records it."""
        self._bindings: OrderedDict[tuple[int, ...], Binding] = OrderedDict()
        self._can_bind = True
        self._expected: dict[tuple[tuple[int, ...], ...], ExpectedOutputs | None] = {}

    def expected_outputs(self, feeds: Arrays) -> ExpectedOutputs | None:
        """Return the outputs for feeds of these shapes; None where only a run determines them."""
        if not self._can_bind:
            return None
        shapes = tuple([feeds[spec.name].shape for spec in self.module.inputs])
        if shapes not in self._expected:
            if len(self._expected) >= _BINDINGS_MAX:
                self._expected.clear()
            self._expected[shapes] = expected_outputs(self.module.inputs, self.module.outputs, shapes)
        return self._expected[shapes]

    def run(self, feeds: Arrays, log: ConversionLog) -> dict[str, np.ndarray]:
        """Run into memory that the engine allocates; see `Module.run`."""
        return self.module.run(feeds, log) if self.converts else self.module.run(feeds)

    def run_again(self, feeds: Arrays, outputs: Arrays) -> bool | None:
        """Run the cached binding to the memory of these arrays; None where there is none, else as `run_into`."""
        binding = self._bindings.get(_key(feeds, outputs))
        return None if binding is None else self._try(binding.run)

    def run_into(self, feeds: Arrays, outputs: Arrays, *, keep: bool) -> bool:
        """Run into given arrays.

        Parameters
        ----------
        feeds, outputs : mapping of str to array
            All of the module's; outputs with the dtypes and shapes of `expected_outputs`.
        keep : bool
            Whether to cache the binding: the memory will be used again, and is not freed before the module is closed.

        Returns
        -------
        bool
            False where the engine cannot do it: the content of the outputs is undefined then, and the module's own
            `run` may succeed.
        """
        if keep and (succeeded := self.run_again(feeds, outputs)) is not None:
            return succeeded
        return self._try(partial(self._bind_and_run, feeds, outputs, keep))

    def _bind_and_run(self, feeds: Arrays, outputs: Arrays, keep: bool) -> None:
        binding = self.module.bind(feeds, outputs)
        if keep:
            self._bindings[_key(feeds, outputs)] = binding
            if len(self._bindings) > _BINDINGS_MAX:
                self._bindings.popitem(last=False)
        binding.run()

    def _try(self, run: Callable[[], None]) -> bool:
        try:
            run()
        except TrisectError:
            # Not every model keeps to the shapes in its file. A run without buffers works then, or reports the error.
            self._can_bind = False
            self._bindings.clear()
            return False
        return True

    def close(self) -> None:
        """Close the module."""
        self._bindings.clear()
        self.module.close()


def expected_outputs(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], shapes: Sequence[tuple[int, ...]]
) -> ExpectedOutputs | None:
    """Return a module's outputs for inputs of given shapes; None where its file does not determine them.

    Examples
    --------
    >>> x, y = TensorSpec("x", "float32", ("n", 3)), TensorSpec("y", "float32", ("n", 4))
    >>> expected_outputs([x], [y], [(2, 3)])
    ExpectedOutputs(kinds={'y': (dtype('float32'), (2, 4))}, size_bytes=32)
    >>> expected_outputs([x], [TensorSpec("y", "float32", ("m", 4))], [(2, 3)]) is None
    True
    """
    sizes: dict[int | str, int] = {}
    for spec, shape in zip(inputs, shapes, strict=True):
        if spec.shape != UNKNOWN_RANK:
            sizes.update(zip(spec.shape, shape, strict=True))
    sizes.pop("?", None)
    kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
    size_bytes = 0
    for spec in outputs:
        shape = tuple([dim if isinstance(dim, int) else sizes.get(dim, -1) for dim in spec.shape])
        dtype = dtype_of(spec.dtype)
        if dtype.kind == "O" or -1 in shape or not math.prod(shape):
            return None
        kinds[spec.name] = (dtype, shape)
        size_bytes += math.prod(shape) * dtype.itemsize
    return ExpectedOutputs(kinds, size_bytes)


def _key(feeds: Arrays, outputs: Arrays) -> tuple[int, ...]:
    """Return the addresses and shapes of a set of buffers."""
    key: list[int] = []
    for array in (*feeds.values(), *outputs.values()):
        key.append(array.__array_interface__["data"][0])
        key.extend(array.shape)
    return tuple(key)
