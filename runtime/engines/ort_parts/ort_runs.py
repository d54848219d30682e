"""Runs of an ONNX Runtime session that another thread can end."""

from __future__ import annotations

import onnxruntime as ort

from ...device import Device
from ...errors import EngineFailed, RunCancelled
from ..common.engine_errors import engine_error


class OrtRuns:
    """The options of all runs of a session: it looks at them between two nodes."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._options = ort.RunOptions()

    def begin(self) -> ort.RunOptions:
        """Return the options for a run that starts now."""
        self._options.terminate = False
        return self._options

    def cancel(self) -> None:
        """End the runs of this moment."""
        self._options.terminate = True

    def failure(self, error: Exception) -> EngineFailed | RunCancelled:
        """Return the error of a run that raised."""
        if self._options.terminate:
            return RunCancelled(f"the run on {self._device.id} was cancelled")
        return engine_error(self._device, "could not run", error)
