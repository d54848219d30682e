"""OpenVINO on the whole model, on each of its devices: read, fix the shapes, compile, infer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from trisect.runtime.device import Device
from trisect.runtime.tensors.tensor_spec import Arrays

from . import ContenderOptions, PeerVariant, WholeModelContender


def variants(devices: Sequence[Device]) -> Iterator[PeerVariant]:
    """Yield a variant for each of its devices."""
    for device in devices:
        if device.engine == "openvino":
            where = "" if device.native == "CPU" else f" on {device.native}"
            yield PeerVariant(f"OpenVINO alone{where}", (device.id,), {"native": device.native}, note="in float32")


class OpenvinoContender(WholeModelContender):
    """A compiled model at fixed shapes, in float32 like all contenders: by default it computes in bfloat16."""

    def load(self, model: Path, feeds: Arrays, options: ContenderOptions) -> str:
        """See `Contender.load`."""
        self._compiled = self.compile(ov.Core(), model, feeds, options)
        self._request = self._compiled.create_infer_request()
        names = [next(name for name in port.names if name in feeds) for port in self._compiled.inputs]
        self._feeds = [feeds[name] for name in names]
        return ""

    def compile(self, core: ov.Core, model: Path, feeds: Arrays, options: ContenderOptions) -> Any:
        """Compile for the device that the settings name."""
        ov_model = self.read(core, model, feeds)
        return core.compile_model(ov_model, options.settings["native"], self.properties(options))

    def read(self, core: ov.Core, model: Path, feeds: Arrays) -> Any:
        """Read a model, at the shapes of its feeds."""
        ov_model = core.read_model(str(model))
        names = {port: next(name for name in port.names if name in feeds) for port in ov_model.inputs}
        ov_model.reshape({port: ov.PartialShape(list(feeds[name].shape)) for port, name in names.items()})
        return ov_model

    def properties(self, options: ContenderOptions) -> dict[str, str]:
        """Return the properties for low latency in float32."""
        properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        return properties | ({"INFERENCE_NUM_THREADS": str(options.threads)} if options.threads else {})

    def run(self) -> dict[str, np.ndarray]:
        """See `Contender.run`."""
        outputs = self._request.infer(self._feeds, share_inputs=True, share_outputs=True)
        return {name: outputs[port] for port in self._compiled.outputs for name in port.names}


CONTENDER = OpenvinoContender
