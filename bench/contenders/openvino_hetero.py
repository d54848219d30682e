"""OpenVINO's HETERO: each node to the first device of a list that says it can run it.

Where OpenVINO has one device only, its CPU plugin is registered a second time, so that the path can be measured: such a
run can gain nothing and shows what the path costs, and its label says so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openvino as ov

from trisect.runtime.device import Device
from trisect.runtime.tensors.tensor_spec import Arrays

from . import Loading, Offer, openvino_alone

_TWIN = "SECOND_CPU"
"""The plugin goes by its name: one without CPU in it is refused."""
_PREFERENCE = {"npu": 0, "gpu": 1, "cpu": 2}


def offers(devices: Sequence[Device]) -> Iterator[Offer]:
    """One, over all of OpenVINO's devices."""
    own = sorted((d for d in devices if d.engine == "openvino"), key=lambda device: _PREFERENCE[device.kind])
    ids = tuple(device.id for device in own)
    natives = [device.native for device in own]
    if len(own) > 1:
        yield Offer(f"OpenVINO HETERO:{','.join(natives)}", ids, {"natives": natives}, note="in float32")
    elif natives == ["CPU"]:
        note = "the one CPU under two names: shows what the path costs, and cannot gain"
        yield Offer("OpenVINO HETERO, CPU twice", ids, {"natives": [_TWIN, "CPU"]}, note=note)


class Contender(openvino_alone.Contender):
    """A model compiled for several devices at once."""

    def compile(self, core: ov.Core, model: Path, feeds: Arrays, options: Loading) -> Any:
        """See `openvino_alone.Contender.compile`."""
        natives = options.settings["natives"]
        if _TWIN in natives:
            core.register_plugin(str(_cpu_plugin()), _TWIN)
        read = self.read(core, model, feeds)
        for native in set(natives):
            core.set_property(native, {"INFERENCE_PRECISION_HINT": "f32"})
        return core.compile_model(read, f"HETERO:{','.join(natives)}", {"PERFORMANCE_HINT": "LATENCY"})


def _cpu_plugin() -> Path:
    names = {"win32": "openvino_intel_cpu_plugin.dll", "darwin": "libopenvino_intel_cpu_plugin.so"}
    return Path(ov.__file__).parent / "libs" / names.get(sys.platform, "libopenvino_intel_cpu_plugin.so")
