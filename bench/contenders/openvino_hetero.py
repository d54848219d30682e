"""OpenVINO's HETERO: each node on the first device of a list that supports it.

Where OpenVINO has one device only, its CPU plugin is registered a second time, so that HETERO's overhead can be
measured: such a run cannot be faster, and its label says so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openvino as ov

from trisect.runtime.device import Device
from trisect.runtime.tensors.tensor_spec import Arrays

from . import ContenderOptions, PeerVariant, openvino_alone

_SECOND_CPU = "SECOND_CPU"
"""The plugin accepts only names that contain CPU."""
_PRIORITY = {"npu": 0, "gpu": 1, "cpu": 2}


def variants(devices: Sequence[Device]) -> Iterator[PeerVariant]:
    """Yield one variant over all of OpenVINO's devices."""
    own = sorted((d for d in devices if d.engine == "openvino"), key=lambda device: _PRIORITY[device.kind])
    ids = tuple(device.id for device in own)
    natives = [device.native for device in own]
    if len(own) > 1:
        yield PeerVariant(f"OpenVINO HETERO:{','.join(natives)}", ids, {"natives": natives}, note="in float32")
    elif natives == ["CPU"]:
        note = "the same CPU registered twice: shows the overhead of HETERO, and cannot gain"
        yield PeerVariant("OpenVINO HETERO, CPU twice", ids, {"natives": [_SECOND_CPU, "CPU"]}, note=note)


class HeteroContender(openvino_alone.OpenvinoContender):
    """A model compiled for several devices at once."""

    def compile(self, core: ov.Core, model: Path, feeds: Arrays, options: ContenderOptions) -> Any:
        """See `OpenvinoContender.compile`."""
        natives = options.settings["natives"]
        if _SECOND_CPU in natives:
            core.register_plugin(str(_cpu_plugin()), _SECOND_CPU)
        ov_model = self.read(core, model, feeds)
        for native in set(natives):
            core.set_property(native, {"INFERENCE_PRECISION_HINT": "f32"})
        return core.compile_model(ov_model, f"HETERO:{','.join(natives)}", {"PERFORMANCE_HINT": "LATENCY"})


def _cpu_plugin() -> Path:
    names = {"win32": "openvino_intel_cpu_plugin.dll", "darwin": "libopenvino_intel_cpu_plugin.so"}
    return Path(ov.__file__).parent / "libs" / names.get(sys.platform, "libopenvino_intel_cpu_plugin.so")


CONTENDER = HeteroContender
