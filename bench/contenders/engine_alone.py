"""The whole model on one device that is neither ONNX Runtime's nor OpenVINO's CPU, with nothing left to the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from trisect.runtime import engines
from trisect.runtime.device import Device, select
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.tensors.tensor_spec import Arrays

from . import Loading, Offer, Whole

_ELSEWHERE = ("ort", "openvino")
"""Engines with a file of their own in this folder."""


def offers(devices: Sequence[Device]) -> Iterator[Offer]:
    """One for each such device."""
    for device in devices:
        if device.engine not in _ELSEWHERE:
            maker = "ONNX Runtime" if device.native.endswith("ExecutionProvider") else device.engine
            yield Offer(f"{maker} on {device.id} alone", (device.id,), {"device": device.id})


class Contender(Whole):
    """The engine's module, called directly."""

    def load(self, model: Path, feeds: Arrays, options: Loading) -> str:
        """See `Contender.load`."""
        device = select(options.settings["device"], engines.discover())[0]
        # A process of its own: nobody suffers from idle threads that spin.
        loading = LoadOptions(threads=options.threads, shapes=options.shapes, spin=True)
        self._module = engines.load(model, device, loading)
        self._feeds = dict(feeds)
        return ""

    def run(self) -> dict[str, np.ndarray]:
        """See `Contender.run`."""
        return self._module.run(self._feeds)
