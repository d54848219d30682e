"""A model loaded in an ONNX Runtime session, and fixed buffers on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort

from ...core_affinity import CoreAffinity
from ...device import Device
from ...tensors.containers import container_of, pack, unpack
from ...tensors.conversions import ConversionLog
from ...tensors.dtypes import is_numpy_dtype
from ...tensors.feed_checks import check_buffers, check_feeds
from ...tensors.tensor_spec import Arrays, TensorSpec
from ..common.engine_errors import closed_module_error, engine_error
from .ort_runs import OrtRuns
from .ort_values import to_array, to_ort_value, unwrap_value, wrap_array


class OrtModule:
    """A model loaded in an ONNX Runtime session; safe to run from several threads."""

    def __init__(
        self,
        session: ort.InferenceSession,
        device: Device,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        affinity: CoreAffinity | None = None,
    ) -> None:
        self.device = device
        self.inputs = inputs
        self.outputs = outputs
        self._affinity = affinity
        self._session: ort.InferenceSession | None = session
        self._runs = OrtRuns(device)
        self._names = [spec.name for spec in outputs]
        self._dtypes = {spec.name: spec.dtype for spec in (*inputs, *outputs)}
        self._plain = all(is_numpy_dtype(spec.dtype) and container_of(spec.dtype) is None for spec in inputs + outputs)
        self.converts = not self._plain
        self._has_numpy_outputs = all(is_numpy_dtype(spec.dtype) for spec in outputs)

    def run(self, feeds: Arrays, log: ConversionLog | None = None) -> dict[str, np.ndarray]:
        """Compute once; see `Module.run`."""
        checked = check_feeds(self.inputs, feeds, log)
        session = self._open()
        if self._affinity is not None:
            self._affinity.leave_helper_cores()
        options = self._runs.begin()
        try:
            if self._plain:
                return dict(zip(self._names, session.run(self._names, checked, options), strict=True))
            if self._has_numpy_outputs:
                inputs = {name: self._input(name, array, log) for name, array in checked.items()}
                return {
                    name: pack(self._dtypes[name], value) if container_of(self._dtypes[name]) else np.asarray(value)
                    for name, value in zip(self._names, session.run(self._names, inputs, options), strict=True)
                }
            inputs = {name: to_ort_value(name, array, self._dtypes[name], log) for name, array in checked.items()}
            values = session.run_with_ort_values(self._names, inputs, options)
            return {
                name: to_array(name, value, self._dtypes[name], log)
                for name, value in zip(self._names, values, strict=True)
            }
        except Exception as error:
            raise self._runs.failure(error) from error

    def cancel(self) -> None:
        """End the present runs; see `CancellableModule.cancel`."""
        self._runs.cancel()

    def _input(self, name: str, array: np.ndarray, log: ConversionLog | None) -> Any:
        dtype = self._dtypes[name]
        if container_of(dtype) is not None:
            return unpack(dtype, array)
        return array if is_numpy_dtype(dtype) else to_ort_value(name, array, dtype, log)

    def bind(self, inputs: Arrays, outputs: Arrays) -> OrtBinding:
        """Fix buffers; see `Module.bind`. An array bound as input and output is updated in place."""
        check_buffers(inputs, self.inputs, outputs, self.outputs)
        session = self._open()
        try:
            return OrtBinding(session, self._runs, self.outputs, inputs, outputs, self._affinity)
        except Exception as error:
            raise engine_error(self.device, "cannot bind the buffers", error) from error

    def close(self) -> None:
        """Free the memory; a second call does nothing."""
        self._session = None

    def _open(self) -> ort.InferenceSession:
        if self._session is None:
            raise closed_module_error(self.device)
        return self._session


class OrtBinding:
    """Fixed buffers on an ONNX Runtime session."""

    def __init__(
        self,
        session: ort.InferenceSession,
        runs: OrtRuns,
        specs: tuple[TensorSpec, ...],
        inputs: Arrays,
        outputs: Arrays,
        affinity: CoreAffinity | None,
    ) -> None:
        self._runs = runs
        self._session = session
        self._affinity = affinity
        self._bound = dict(outputs)
        self._position = {spec.name: (index, spec.dtype) for index, spec in enumerate(specs)}
        self._binding = session.io_binding()
        values = {name: wrap_array(array, array.dtype.name) for name, array in inputs.items()}
        for name, value in values.items():
            self._binding.bind_ortvalue_input(name, value)
        # Binding copies what the device cannot read in place: such an input has to be bound again for each run.
        memories = [info.name for info in session.get_input_memory_infos()]
        self._uploads = {} if all(memory == "Cpu" for memory in memories) else values
        for name in self._position:
            if name in outputs:
                self._binding.bind_ortvalue_output(name, wrap_array(outputs[name], outputs[name].dtype.name))
            else:
                self._binding.bind_output(name, "cpu")

    def run(self) -> None:
        """Compute once; see `Binding.run`."""
        if self._affinity is not None:
            self._affinity.leave_helper_cores()
        options = self._runs.begin()
        try:
            for name, value in self._uploads.items():
                self._binding.bind_ortvalue_input(name, value)
            self._session.run_with_iobinding(self._binding, options)
        except Exception as error:
            raise self._runs.failure(error) from error

    def output(self, name: str) -> np.ndarray:
        """Return the array of an output; see `Binding.output`."""
        if name in self._bound:
            return self._bound[name]
        index, dtype = self._position[name]
        return unwrap_value(self._binding.get_outputs()[index], dtype)
