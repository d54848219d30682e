"""The whole model on one device other than ONNX Runtime's and OpenVINO's CPU, without fallback to the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from trisect.runtime import engines
from trisect.runtime.device import Device, select
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.tensors.tensor_spec import Arrays

from . import ContenderOptions, PeerVariant, WholeModelContender

_OTHER_FILES = ("ort", "openvino")
"""Engines with a file of their own in this folder."""


def variants(devices: Sequence[Device]) -> Iterator[PeerVariant]:
    """Yield a variant for each such device."""
    for device in devices:
        if device.engine not in _OTHER_FILES:
            maker = "ONNX Runtime" if device.native.endswith("ExecutionProvider") else device.engine
            yield PeerVariant(f"{maker} on {device.id} alone", (device.id,), {"device": device.id})


class EngineContender(WholeModelContender):
    """The engine's module, called directly."""

    def load(self, model: Path, feeds: Arrays, options: ContenderOptions) -> str:
        """See `Contender.load`."""
        device = select(options.settings["device"], engines.discover())[0]
        # Nothing else runs in this process, so idle threads may spin.
        loading = LoadOptions(threads=options.threads, shapes=options.shapes, spin=True)
        self._module = engines.load(model, device, loading)
        self._feeds = dict(feeds)
        return ""

    def run(self) -> dict[str, np.ndarray]:
        """See `Contender.run`."""
        return self._module.run(self._feeds)


CONTENDER = EngineContender
