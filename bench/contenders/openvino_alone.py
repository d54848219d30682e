"""OpenVINO on the whole model, on each of its devices: read, fix the shapes, compile, infer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from trisect.runtime.device import Device
from trisect.runtime.tensors.tensor_spec import Arrays

from . import Loading, Offer, Whole


def offers(devices: Sequence[Device]) -> Iterator[Offer]:
    """One for each of its devices."""
    for device in devices:
        if device.engine == "openvino":
            where = "" if device.native == "CPU" else f" on {device.native}"
            yield Offer(f"OpenVINO alone{where}", (device.id,), {"native": device.native}, note="in float32")


class Contender(Whole):
    """A compiled model at fixed shapes, in float32 as all others here: left to itself it computes in bfloat16."""

    def load(self, model: Path, feeds: Arrays, options: Loading) -> str:
        """See `Contender.load`."""
        self._compiled = self.compile(ov.Core(), model, feeds, options)
        self._request = self._compiled.create_infer_request()
        named = [next(name for name in port.names if name in feeds) for port in self._compiled.inputs]
        self._feeds = [feeds[name] for name in named]
        return ""

    def compile(self, core: ov.Core, model: Path, feeds: Arrays, options: Loading) -> Any:
        """Compile for the device that the settings name."""
        read = self.read(core, model, feeds)
        return core.compile_model(read, options.settings["native"], self.properties(options))

    def read(self, core: ov.Core, model: Path, feeds: Arrays) -> Any:
        """Read a model, at the shapes of its feeds."""
        read = core.read_model(str(model))
        named = {port: next(name for name in port.names if name in feeds) for port in read.inputs}
        read.reshape({port: ov.PartialShape(list(feeds[name].shape)) for port, name in named.items()})
        return read

    def properties(self, options: Loading) -> dict[str, str]:
        """Of every device: its latency, in float32."""
        found = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        return found | ({"INFERENCE_NUM_THREADS": str(options.threads)} if options.threads else {})

    def run(self) -> dict[str, np.ndarray]:
        """See `Contender.run`."""
        made = self._request.infer(self._feeds, share_inputs=True, share_outputs=True)
        return {name: made[port] for port in self._compiled.outputs for name in port.names}
