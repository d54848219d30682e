"""Runs whose commands a device records once and replays from then on (graph capture).

A replay repeats the commands on the same addresses: whatever changes has to be copied into buffers that stay where they
are. An output must be written by a kernel: a copy at the end of the graph (``Reshape``) is not repeated, so that the
output keeps the values of the first run, without an error.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from ...device import Device
from ..base import DeviceArray
from ..common.engine_errors import engine_error
from .ort_values import wrap_array

Tensors = Mapping[str, DeviceArray | np.ndarray]


def run_options(recording: int | None) -> ort.RunOptions | None:
    """Return the options of a run that makes or replays a recording of that number; -1: neither."""
    if recording is None:
        return None
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(recording))
    return options


class RecordedBinding:
    """Arrays on the host that are copied to and from fixed buffers on a device; see `DeviceBinding`.

    Parameters
    ----------
    tensors : tuple of mapping
        Inputs, outputs: arrays on the host or tensors on the device.
    buffers : mapping of str to onnxruntime.OrtValue
        The buffer of each of them; an input that the provider reads on the host has the array itself.
    recording : int
        Number of the recording, of its own for each binding.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        device: Device,
        tensors: tuple[Tensors, Tensors],
        buffers: Mapping[str, ort.OrtValue],
        recording: int,
    ) -> None:
        self._session = session
        self._device = device
        self._options = run_options(recording)
        self._binding = session.io_binding()
        inputs, outputs = tensors
        self._outputs = {name: array for name, array in outputs.items() if isinstance(array, np.ndarray)}
        self._uploads: tuple[list[ort.OrtValue], list[ort.OrtValue]] = ([], [])
        self.uploaded_bytes = 0
        for name, tensor in inputs.items():
            self._binding.bind_ortvalue_input(name, buffers[name])
            if isinstance(tensor, np.ndarray) and buffers[name].device_name() != "cpu":
                self._uploads[0].append(wrap_array(tensor, tensor.dtype.name))
                self._uploads[1].append(buffers[name])
                self.uploaded_bytes += tensor.nbytes
        self._downloads = (
            [buffers[name] for name in self._outputs],
            [wrap_array(array, array.dtype.name) for array in self._outputs.values()],
        )
        for name in outputs:
            self._binding.bind_ortvalue_output(name, buffers[name])

    def run(self) -> None:
        """Compute once; see `Binding.run`."""
        try:
            ort.copy_tensors(*self._uploads)
            self._session.run_with_iobinding(self._binding, self._options)
            ort.copy_tensors(*self._downloads)
        except Exception as error:  # its exceptions share no base
            raise engine_error(self._device, "could not run", error) from error

    def output(self, name: str) -> np.ndarray:
        """Return the array of an output that is bound to one; see `Binding.output`."""
        return self._outputs[name]
