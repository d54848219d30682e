"""ONNX Runtime's CPU provider on the whole model, as its documentation shows: one session, one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from trisect.runtime.device import Device
from trisect.runtime.tensors.tensor_spec import Arrays

from . import ContenderOptions, PeerVariant, WholeModelContender

LABEL = "ONNX Runtime alone"


def variants(devices: Sequence[Device]) -> Iterator[PeerVariant]:
    """Yield one variant where its CPU device is among the devices."""
    yield from (PeerVariant(LABEL, (device.id,)) for device in devices if device.engine == "ort")


class OrtContender(WholeModelContender):
    """An `InferenceSession` with default options."""

    def load(self, model: Path, feeds: Arrays, options: ContenderOptions) -> str:
        """See `Contender.load`."""
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads or 0
        self._session = ort.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self._feeds = dict(feeds)
        return ""

    def run(self) -> dict[str, np.ndarray]:
        """See `Contender.run`."""
        return dict(zip(self._names, self._session.run(self._names, self._feeds), strict=True))


CONTENDER = OrtContender
