"""The protocol between trisect and a vendor's runtime.

An `Engine` lists devices, loads models on them and states its `EngineCapabilities`; a `Module` is one model loaded on
one device; a `Binding` is a module with fixed buffers, for hot loops. A new engine is one file in this package with one
engine class (discovered, whatever its name), or an entry point in the group ``trisect.engines``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..device import Device
from ..tensors.conversions import ConversionLog
from ..tensors.tensor_spec import Arrays, TensorSpec
from .common.kernels import Kernel


@dataclass(frozen=True)
class LoadOptions:
    """How to load a model; an engine ignores the options that it does not support."""

    threads: int | None = None
    """Computing threads; None = the engine's default for this machine."""
    precision: str = "float32"
    """``float32`` for reference numerics, ``fast`` for the dtype in which the device is fastest (bfloat16, float16)."""
    shapes: Mapping[str, int] = field(default_factory=dict)
    """Values for symbolic dimensions."""
    state: Mapping[str, str] = field(default_factory=dict)
    """Inputs that an output of the previous run replaces (``past.0.key`` -> ``present.0.key``); needs
    `EngineCapabilities.internal_state`."""
    state_dtype: str | None = None
    """Dtype in which the engine stores that state where it can choose: ``float32``, ``float16``, ``bfloat16``,
    ``int8``; None = its default for the precision."""
    outputs: tuple[str, ...] | None = None
    """Outputs that the caller will read; an engine may leave the others uncomputed. None = all."""
    scale_group: int | None = None
    """Group size for quantising activations to 8 bits in ``fast``; None = the engine's default."""
    native_outputs: tuple[str, ...] = ()
    """Outputs that may stay in the dtype that the device computes in instead of being widened; the module's `outputs`
    state that dtype."""
    spin: bool = False
    """Let idle threads spin: a few per cent faster alone, but slows other engines on the same cores badly."""
    spin_limit_us: int | None = None
    """How long an idle thread spins before it sleeps; None = the engine's default."""
    pinned: bool | None = None
    """Pin helper threads to cores of their own, and keep callers off those; see `trisect.runtime.core_affinity`.
    None = the caller's default: a session with the executor ``threads`` pins where the engine may use all cores."""
    external_data_folder: str | None = None
    """Folder of the weights of a model given as bytes; needs `EngineCapabilities.external_data_folder`."""
    compiled_folder: str | None = None
    """Folder where an engine that compiles for minutes may store the result for the next time; None = nowhere."""
    capture: bool = False
    """Record the commands of runs that are bound to be repeated, and replay them; see
    `DecoderSupport.captures_steps`."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Engine-specific settings, passed on unchanged."""


class Binding(Protocol):
    """A module with fixed input and output buffers, for loops that run it thousands of times."""

    def run(self) -> None:
        """Compute once: read the bound inputs, write the bound outputs."""

    def output(self, name: str) -> np.ndarray:
        """Return the array of an output after `run`: the bound one, or the engine's own where none was bound."""


class Module(Protocol):
    """One model loaded on one device.

    A module that may copy tensors into another form has the attribute ``converts = True``; only such a module is given
    a log.
    """

    device: Device
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Arrays, log: ConversionLog | None = None) -> dict[str, np.ndarray]:
        """Compute once, and record tensors that are copied; the arrays returned belong to the caller."""

    def bind(self, inputs: Arrays, outputs: Arrays) -> Binding:
        """Fix the buffers. The engine allocates the outputs that are left out, at each run."""

    def close(self) -> None:
        """Free the device's memory."""


@runtime_checkable
class CancellableModule(Module, Protocol):
    """A module whose runs another thread can end."""

    def cancel(self) -> None:
        """End all present runs: they raise `RunCancelled`, and leave outputs and state undefined. Without effect on
        later ones."""


class DeviceArray(Protocol):
    """A tensor in the memory of a device."""

    @property
    def dtype(self) -> np.dtype: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...

    def download(self, array: np.ndarray) -> None:
        """Copy it into a host array of the same dtype and shape."""


class DeviceBinding(Binding, Protocol):
    """A binding to tensors in a device's memory and to arrays on the host."""

    uploaded_bytes: int
    """Size of the arrays that each run copies to the device."""


@runtime_checkable
class DeviceModule(Module, Protocol):
    """A module on a device with memory of its own, where tensors can stay from one module to the next.

    Calls for one device are made one at a time.
    """

    def upload(self, name: str, array: np.ndarray) -> DeviceArray:
        """Copy an input to the device, where any module on it can read it; what it reads on the host stays there."""

    def run_on_device(self, feeds: Mapping[str, DeviceArray]) -> dict[str, DeviceArray | np.ndarray]:
        """Compute once; outputs stay on the device except those that the engine computes on the host."""


@runtime_checkable
class BindableDeviceModule(DeviceModule, Protocol):
    """A module whose inputs and outputs can be bound to tensors in its device's memory."""

    def bind_on_device(
        self,
        inputs: Mapping[str, DeviceArray | np.ndarray],
        outputs: Mapping[str, DeviceArray | np.ndarray],
        *,
        repeats: bool = False,
    ) -> DeviceBinding:
        """Fix the buffers of all inputs and outputs; a tensor bound as both is updated in place on the device.

        With `repeats`, a module loaded with `LoadOptions.capture` records the first run and replays it from then on.
        """


@runtime_checkable
class StatefulModule(Module, Protocol):
    """A module loaded with `LoadOptions.state`, by an engine that keeps those tensors inside from run to run.

    Its ``inputs`` and ``outputs`` do not list the tensors that became state.
    """

    def set_state(self, values: Arrays) -> None:
        """Overwrite state tensors, by the name of the input that each replaces; the data is copied."""

    def get_state(self) -> dict[str, np.ndarray]:
        """Return copies of the state tensors, by the name of the input that each replaces."""

    def reset_state(self) -> None:
        """Empty the state, as before the first run."""


@dataclass(frozen=True)
class EngineMemory:
    """Memory that an engine takes for a language model beside the pages that it maps from the weights file.

    The defaults are those of the engine that takes most, for engines that state nothing.
    """

    copies: float = 2.5
    """Of the levels of quantised weights, in layouts of the engine's own."""
    bytes_per_block: int = 12
    """For the scale of each block."""
    bytes_per_offset: int = 16
    """For the offset of each block that has one."""
    bytes_per_float: int = 8
    """For each weight that is not quantised."""
    cache_copies: float = 2.0
    """Of the KV cache in float32, where the engine keeps it inside."""
    activation_copies: float = 3.0
    """Of the values, in float32, that one layer computes for the tokens of a run."""
    base_bytes: int = 64 << 20
    """For everything that does not grow with the model."""


UNPACKED = EngineMemory(copies=1.0, bytes_per_block=4, bytes_per_offset=4, bytes_per_float=4, cache_copies=1.0)
"""Of an engine that computes with weights as they are stored; not measured."""


@dataclass(frozen=True)
class EngineCapabilities:
    """What an engine can do beyond loading and running models; the defaults hold for an engine that states nothing."""

    own_memory: bool = False
    """Tensors are copied to its devices and can stay there: its modules are `DeviceModule`s."""
    internal_state: bool = False
    """Tensors named in `LoadOptions.state` stay inside: its modules are `StatefulModule`s then."""
    external_data_folder: bool = False
    """A model given as bytes can read its weights from `LoadOptions.external_data_folder`."""
    computes: bool = True
    """False for devices that only imitate one: their results are zeros, and loaded models take no memory."""
    half_precision_kinds: frozenset[str] = frozenset()
    """Kinds of its devices that compute float32 in float16, whatever precision is asked for."""
    memory: EngineMemory = field(default_factory=EngineMemory)
    """What a language model takes there."""
    vendor: str = ""
    """Maker of the GPUs and NPUs that it drives (``intel``, ``nvidia``), where they are one maker's only."""


class Engine(Protocol):
    """A vendor's runtime.

    An engine states what else it can do in an attribute ``capabilities`` (`EngineCapabilities`). Five methods are
    optional: ``keeps_channels_last(device)``, see `trisect.runtime.engines.keeps_channels_last`;
    ``decoder_support(device)``, see `trisect.runtime.engines.decoder_support`;
    ``is_compiled(model, device, options)``, see `trisect.runtime.engines.is_compiled`;
    ``named_devices()``, devices that are used only where a user names them; and ``device_on_request(device)``, which
    returns a device that no list contains as it is here, or None.
    """

    name: str
    package: str
    """What to install where it is missing."""

    def devices(self) -> list[Device]:
        """Return the devices that this runtime itself lists on this machine."""

    def load(self, model: Path | bytes, device: Device, options: LoadOptions) -> Module:
        """Load an ONNX file (or its bytes) on a device.

        Raises
        ------
        EngineFailed
            With the engine's reason in one line.
        """


@runtime_checkable
class ProfilingEngine(Engine, Protocol):
    """An engine whose profiler reports the kernels that it runs for a model, with their times."""

    def kernels(
        self, model: Path, device: Device, options: LoadOptions, feeds: Arrays, duration_s: float
    ) -> tuple[Kernel, ...]:
        """Run an ONNX file with the engine's profiler enabled.

        Parameters
        ----------
        model : Path
            All its nodes have names.
        device : Device
        options : LoadOptions
        feeds : mapping of str to ndarray
        duration_s : float
            How long to repeat the run, after a warm-up.

        Returns
        -------
        tuple of Kernel
            Each node that runs is in exactly one of them; empty where the profiler's events cannot be mapped to the
            model's nodes.

        Raises
        ------
        EngineFailed
            With the engine's reason in one line.
        """
