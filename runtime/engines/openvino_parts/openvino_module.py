"""A model compiled by OpenVINO: runs, fixed buffers and state."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import openvino as ov

from ...device import Device
from ...errors import EngineFailed, InvalidInput, RunCancelled, TrisectError
from ...tensors.containers import contiguous
from ...tensors.conversions import ConversionLog
from ...tensors.feed_checks import check_buffers, check_feeds
from ...tensors.tensor_spec import Arrays, TensorSpec
from ..common.engine_errors import closed_module_error, engine_error
from .openvino_tensors import NON_NUMPY_TYPES, as_array, as_tensor


class OpenVinoModule:
    """A compiled model with one infer request; runs are serialised by a lock."""

    def __init__(
        self,
        compiled: ov.CompiledModel,
        request: ov.InferRequest,
        device: Device,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        state: Mapping[str, str],
        mapped: tuple[object, ...] = (),
    ) -> None:
        self.device = device
        self._mapped = mapped  # memory that the compiled model refers to
        self.inputs = inputs
        self.outputs = outputs
        self.converts = any(spec.dtype in NON_NUMPY_TYPES for spec in inputs + outputs)
        self._state = {parameter + result: parameter for parameter, result in state.items()}
        self._lock = threading.Lock()
        self._current: object = None
        self._is_cancelled = False
        self._compiled: ov.CompiledModel | None = compiled
        self._request: ov.InferRequest | None = request
        self._in_ports = _ports(compiled.inputs, inputs)
        self._out_ports = _ports(compiled.outputs, outputs)
        missing = next((spec.name for spec in outputs if spec.name not in self._out_ports), None)
        if missing is not None:
            raise EngineFailed(
                f"{device.id} has no output {missing!r} after compiling",
                remedy="place it elsewhere",
                device=device.id,
            )
        self._empty = {name: (port.get_element_type(), _empty_shape(port)) for name, port in self._out_ports.items()}

    def run(self, feeds: Arrays, log: ConversionLog | None = None) -> dict[str, np.ndarray]:
        """Compute once; see `Module.run`. Outputs are never copied."""
        checked = check_feeds(self.inputs, feeds, log)
        inputs = {name: as_tensor(array, name, log) for name, array in checked.items()}
        # The run allocates these tensors, and the arrays returned keep them alive without a copy.
        outputs = {name: ov.Tensor(dtype, shape) for name, (dtype, shape) in self._empty.items()}
        self._infer(object(), inputs, outputs)
        return {spec.name: as_array(outputs[spec.name], spec, log) for spec in self.outputs}

    def bind(self, inputs: Arrays, outputs: Arrays) -> OpenVinoBinding:
        """Fix buffers; see `Module.bind`."""
        check_buffers(inputs, self.inputs, outputs, self.outputs)
        sources = {name: as_tensor(array) for name, array in inputs.items()}
        targets = {name: ov.Tensor(*empty) for name, empty in self._empty.items() if name not in outputs}
        targets |= {name: as_tensor(array) for name, array in outputs.items()}
        return OpenVinoBinding(self, sources, targets, outputs)

    def set_state(self, values: Arrays) -> None:
        """Overwrite state tensors; see `StatefulModule.set_state`."""
        unknown = set(values) - set(self._state.values())
        if unknown:
            raise InvalidInput(
                f"{min(unknown)!r} is no state of this model",
                remedy="name inputs of LoadOptions.state",
            )
        with self._lock, self._failures("set its state"):
            for variable in self.request().query_state():
                name = self._state[variable.name]
                if name in values:
                    variable.state = as_tensor(contiguous(values[name]))

    def get_state(self) -> dict[str, np.ndarray]:
        """Return copies of the state tensors; see `StatefulModule.get_state`."""
        with self._lock, self._failures("return its state"):
            return {self._state[state.name]: np.array(state.state.data) for state in self.request().query_state()}

    def reset_state(self) -> None:
        """Empty the state; see `StatefulModule.reset_state`."""
        with self._lock, self._failures("reset its state"):
            self.request().reset_state()

    def cancel(self) -> None:
        """End the present run; see `CancellableModule.cancel`.

        Without the lock, which the run holds. A model that was loaded for one thread runs to its end: OpenVINO 2026.4
        computes it outside the request that can be cancelled.
        """
        request = self._request
        if request is not None and self._lock.locked():
            self._is_cancelled = True
            request.cancel()

    def close(self) -> None:
        """Free the memory; a second call does nothing."""
        with self._lock:
            self._request = None
            self._compiled = None
            self._in_ports = self._out_ports = {}
            self._mapped = ()

    def request(self) -> ov.InferRequest:
        """Return the infer request of an open module."""
        if self._request is None:
            raise closed_module_error(self.device)
        return self._request

    def _infer(self, owner: object, inputs: Mapping[str, ov.Tensor], outputs: Mapping[str, ov.Tensor]) -> None:
        with self._lock:
            request = self.request()
            try:
                if self._current is not owner:
                    self._current = None
                    for name, port in self._in_ports.items():
                        request.set_tensor(port, inputs[name])
                    for name, port in self._out_ports.items():
                        request.set_tensor(port, outputs[name])
                    self._current = owner
                self._is_cancelled = False
                request.infer()
            except Exception as error:
                if self._is_cancelled:
                    raise RunCancelled(f"the run on {self.device.id} was cancelled") from error
                raise self._failed("run", error) from error

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        try:
            yield
        except TrisectError:
            raise
        except Exception as error:
            raise self._failed(doing, error) from error

    def _failed(self, doing: str, error: Exception) -> EngineFailed:
        """Return the error of a plugin; they raise RuntimeError, TypeError and ValueError alike."""
        return engine_error(self.device, f"could not {doing}", error)


class OpenVinoBinding:
    """Fixed buffers on a compiled model."""

    def __init__(
        self, module: OpenVinoModule, inputs: Mapping[str, ov.Tensor], outputs: Mapping[str, ov.Tensor], bound: Arrays
    ) -> None:
        self._module = module
        self._inputs = inputs
        self._outputs = outputs
        self._bound = dict(bound)
        self._specs = {spec.name: spec for spec in module.outputs}

    def run(self) -> None:
        """Compute once; see `Binding.run`."""
        self._module._infer(self, self._inputs, self._outputs)

    def output(self, name: str) -> np.ndarray:
        """Return the array of an output; see `Binding.output`. The next run overwrites the engine's own arrays."""
        return self._bound[name] if name in self._bound else as_array(self._outputs[name], self._specs[name])


def _ports(ports: list[Any], specs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    """Return the port of each name that the compiled model still has.

    OpenVINO keeps the file's order, but merges the names of tensors that are equal, and removes unused inputs.
    """
    if len(ports) == len(specs):
        return {spec.name: port for spec, port in zip(specs, ports, strict=True)}
    return {spec.name: port for spec in specs for port in ports if spec.name in port.names}


def _empty_shape(port: Any) -> ov.Shape:
    """Return the initial shape of an output's tensor: without elements where the run determines its size."""
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return ov.Shape([0])
    return ov.Shape([0 if dim.is_dynamic else dim.get_length() for dim in shape])
