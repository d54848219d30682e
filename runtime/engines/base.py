"""The small protocol between trisect and a vendor's runtime.

An `Engine` lists devices and loads models on them; a `Module` is one model loaded on one device. These two, and one
`Binding` for hot loops, are all that the rest of trisect knows of a runtime: a new engine is one file in this folder
with one class called ``Engine`` (found by its name), or an entry point in the group ``trisect.engines``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..device import Device
from .common.kernels import Kernel

Arrays = Mapping[str, np.ndarray]

UNKNOWN_RANK: tuple[int | str, ...] = ("...",)
"""Shape of a tensor of which the model does not even tell the number of dimensions."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of a model's input or output.

    ``dtype`` is numpy's name (``float32``, ``int64``, ``bfloat16``, ``object`` for strings); a symbolic dimension is
    its name, an unknown one ``"?"``; where even the rank is unknown the shape is `UNKNOWN_RANK`.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class LoadOptions:
    """How to load a model; an engine ignores what it has no notion of."""

    threads: int | None = None
    """Computing threads; None = the engine's default for this machine."""
    precision: str = "float32"
    """``float32`` for reference numerics, ``fast`` for whatever the device is quickest in (bfloat16, float16)."""
    shapes: Mapping[str, int] = field(default_factory=dict)
    """Values for symbolic dimensions."""
    state: Mapping[str, str] = field(default_factory=dict)
    """Inputs that a run's output replaces (``past.0.key`` -> ``present.0.key``): kept inside by an engine that can."""
    outputs: tuple[str, ...] | None = None
    """Outputs that the caller will ask for; an engine that can leaves the others uncomputed. None = all."""
    scale_group: int | None = None
    """How many inputs of a product may share a scale where a device in ``fast`` rounds them to 8 bits; None = its own
    choice."""
    native_outputs: tuple[str, ...] = ()
    """Outputs that may stay in the dtype that the device computes in, instead of being widened for the caller; the
    module's `outputs` tell which that is."""
    spin: bool = False
    """Let idle threads spin: a few per cent quicker alone, ruinous for another engine on the same cores."""
    pinned: bool | None = None
    """Keep helping threads on cores of their own, and callers off those; see `trisect.runtime.core_affinity`.
    None = the loader
    decides: a session with the executor ``threads`` does so where the engine may use all cores."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Engine-specific settings, passed on as they are."""


class Binding(Protocol):
    """A module with its input and output buffers fixed, for loops that run it thousands of times."""

    def run(self) -> None:
        """Compute once: read the bound inputs, write the bound outputs."""

    def output(self, name: str) -> np.ndarray:
        """The array of an output after `run`: the bound one, or the engine's own where none was bound."""


class Module(Protocol):
    """One model loaded on one device.

    One that never copies tensors into another form may say so with ``converts = False``: see
    `trisect.runtime.tensors.conversions`.
    """

    device: Device
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Compute once; the arrays returned belong to the caller."""

    def bind(self, inputs: Arrays, outputs: Arrays) -> Binding:
        """Fix buffers. Outputs left out are allocated by the engine at each run."""

    def close(self) -> None:
        """Give the device's memory back."""


class DeviceArray(Protocol):
    """A tensor in memory that only its device reads."""

    @property
    def dtype(self) -> np.dtype: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...

    def download(self, array: np.ndarray) -> None:
        """Write it into an array of its dtype and shape."""


@runtime_checkable
class DeviceModule(Module, Protocol):
    """A module on a device with memory of its own, where tensors can stay from one module to the next.

    Calls for one device are made one at a time.
    """

    def upload(self, name: str, array: np.ndarray) -> DeviceArray:
        """Copy an input to the device, for any module there to read."""

    def run_there(self, feeds: Mapping[str, DeviceArray]) -> dict[str, DeviceArray | np.ndarray]:
        """Compute once; outputs stay on the device but for those that the engine makes on the host."""


@runtime_checkable
class StatefulModule(Module, Protocol):
    """A module loaded with `LoadOptions.state`, by an engine that keeps those tensors inside from run to run.

    Its ``inputs`` and ``outputs`` no longer list the tensors that became state.
    """

    def set_state(self, values: Arrays) -> None:
        """Put tensors in the state, by the name of the input that each stands for; the data is copied."""

    def get_state(self) -> dict[str, np.ndarray]:
        """Copies of the state's tensors, by the name of the input that each stands for."""

    def reset_state(self) -> None:
        """Empty the state, as before the first run."""


class Engine(Protocol):
    """A vendor's runtime.

    One whose modules are `DeviceModule`s says so with ``own_memory = True``. One that knows how images lie inside it
    may have a method ``keeps_channels_last(device)``: see `trisect.runtime.engines.keeps_channels_last`.
    """

    name: str
    package: str
    """What to install where it is missing."""

    def devices(self) -> list[Device]:
        """Devices that this runtime itself lists on this machine."""

    def load(self, model: Path | bytes, device: Device, options: LoadOptions) -> Module:
        """Load an ONNX file (or its bytes) on a device.

        Raises
        ------
        EngineFailed
            With the engine's reason in one line.
        """


@runtime_checkable
class ProfilingEngine(Engine, Protocol):
    """An engine that can tell which kernels it made of a model, and what each takes."""

    def kernels(
        self, model: Path, device: Device, options: LoadOptions, feeds: Arrays, lasting_s: float
    ) -> tuple[Kernel, ...]:
        """Run an ONNX file under the engine's own profiler.

        Parameters
        ----------
        model : Path
            All its nodes have names.
        device : Device
        options : LoadOptions
        feeds : mapping of str to ndarray
        lasting_s : float
            Runs for so long, after a warm-up.

        Returns
        -------
        tuple of Kernel
            Each node that runs is in one of them; none where the engine's tale cannot be brought in line with the
            model.

        Raises
        ------
        EngineFailed
            With the engine's reason in one line.
        """
