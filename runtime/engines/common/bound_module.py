"""Runs a module into memory that it is given, so that a stream of items allocates nothing.

An engine that makes its outputs itself takes fresh memory for each run, and the system hands that out page by page: for
large tensors this costs more than many an operator. Where the shapes of the outputs are known beforehand a module is
bound to given memory instead (`Module.bind`), and the binding is kept for when the same memory comes round again.
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
from ...tensors.tensor_spec import UNKNOWN_RANK, Arrays, TensorSpec
from ...tensors.tensors import dtype_of
from ..base import Binding, Module

_MOST_BINDINGS = 32
"""Kept of one module: more than any window of items in flight needs."""


class Outputs(NamedTuple):
    """What a run will give, known before it."""

    kinds: Mapping[str, tuple[np.dtype, tuple[int, ...]]]
    """Dtype and shape of each output."""
    size_bytes: int


class BoundModule:
    """A module, and its bindings to the memory that it was run on."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.converts: bool = getattr(module, "converts", False)
        """Whether the module may convert tensors, and records it."""
        self._bindings: OrderedDict[tuple[int, ...], Binding] = OrderedDict()
        self._binds = True
        self._known: dict[tuple[tuple[int, ...], ...], Outputs | None] = {}

    def outputs_for(self, feeds: Arrays) -> Outputs | None:
        """The outputs for feeds of these shapes; None where only a run tells."""
        if not self._binds:
            return None
        shapes = tuple([feeds[spec.name].shape for spec in self.module.inputs])
        if shapes not in self._known:
            if len(self._known) >= _MOST_BINDINGS:
                self._known.clear()
            self._known[shapes] = known_outputs(self.module.inputs, self.module.outputs, shapes)
        return self._known[shapes]

    def run(self, feeds: Arrays, log: ConversionLog) -> dict[str, np.ndarray]:
        """Run into memory that the engine allocates; see `Module.run`."""
        return self.module.run(feeds, log) if self.converts else self.module.run(feeds)

    def run_again(self, feeds: Arrays, outputs: Arrays) -> bool | None:
        """Run the binding that was kept of the memory that arrays lie in; None where none was, else as `run_into`."""
        binding = self._bindings.get(_addresses(feeds, outputs))
        return None if binding is None else self._ran(binding.run)

    def run_into(self, feeds: Arrays, outputs: Arrays, *, keep: bool) -> bool:
        """Run into given arrays.

        Parameters
        ----------
        feeds, outputs : mapping of str to array
            All of the module's; outputs of the dtypes and shapes of `outputs_for`.
        keep : bool
            Whether this memory will come round again: nobody else's, and never freed before the module is closed.

        Returns
        -------
        bool
            False where the engine cannot do it: the outputs hold nothing then, and `run` may do better.
        """
        if keep and (ran := self.run_again(feeds, outputs)) is not None:
            return ran
        return self._ran(partial(self._bind_and_run, feeds, outputs, keep))

    def _bind_and_run(self, feeds: Arrays, outputs: Arrays, keep: bool) -> None:
        binding = self.module.bind(feeds, outputs)
        if keep:
            self._bindings[_addresses(feeds, outputs)] = binding
            if len(self._bindings) > _MOST_BINDINGS:
                self._bindings.popitem(last=False)
        binding.run()

    def _ran(self, run: Callable[[], None]) -> bool:
        try:
            run()
        except TrisectError:
            # The shapes in a file are a promise that not every model keeps. A run without buffers will tell, and
            # fails again where the reason is another.
            self._binds = False
            self._bindings.clear()
            return False
        return True

    def close(self) -> None:
        """Close the module."""
        self._bindings.clear()
        self.module.close()


def known_outputs(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], shapes: Sequence[tuple[int, ...]]
) -> Outputs | None:
    """A module's outputs for inputs of given shapes; None where the file does not tell.

    Examples
    --------
    >>> x, y = TensorSpec("x", "float32", ("n", 3)), TensorSpec("y", "float32", ("n", 4))
    >>> known_outputs([x], [y], [(2, 3)])
    Outputs(kinds={'y': (dtype('float32'), (2, 4))}, size_bytes=32)
    >>> known_outputs([x], [TensorSpec("y", "float32", ("m", 4))], [(2, 3)]) is None
    True
    """
    sizes: dict[int | str, int] = {}
    for spec, shape in zip(inputs, shapes, strict=True):
        if spec.shape != UNKNOWN_RANK:
            sizes.update(zip(spec.shape, shape, strict=True))
    sizes.pop("?", None)
    found: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
    size_bytes = 0
    for spec in outputs:
        shape = tuple([dim if isinstance(dim, int) else sizes.get(dim, -1) for dim in spec.shape])
        dtype = dtype_of(spec.dtype)
        if dtype.kind == "O" or -1 in shape or not math.prod(shape):
            return None
        found[spec.name] = (dtype, shape)
        size_bytes += math.prod(shape) * dtype.itemsize
    return Outputs(found, size_bytes)


def _addresses(feeds: Arrays, outputs: Arrays) -> tuple[int, ...]:
    """What tells one set of buffers from another: addresses and shapes."""
    key: list[int] = []
    for array in (*feeds.values(), *outputs.values()):
        key.append(array.__array_interface__["data"][0])
        key.extend(array.shape)
    return tuple(key)
