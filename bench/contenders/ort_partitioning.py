"""ONNX Runtime's own partitioning: each node on the first execution provider that supports it, the rest on the CPU.

It considers no costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from trisect.runtime import engines
from trisect.runtime.device import Device, select
from trisect.runtime.tensors.tensor_spec import Arrays

from . import ContenderOptions, PeerVariant, WholeModelContender
from .ort_alone import LABEL as ALONE

LABEL = "ONNX Runtime's partitioning"
_CPU = "CPUExecutionProvider"
_OPTIONS = {"QNNExecutionProvider": {"backend_type": "htp"}, "CUDAExecutionProvider": {"use_tf32": "0"}}
"""Options that a provider needs to run, or to compute in float32."""


def variants(devices: Sequence[Device]) -> Iterator[PeerVariant]:
    """Yield all providers together, and each of several with the CPU alone."""
    others = [device for device in devices if device.native.endswith("ExecutionProvider") and device.native != _CPU]
    cpu = [device.id for device in devices if device.engine == "ort"]
    if not others:
        if cpu:
            note = "the CPU is the only provider among the devices"
            yield PeerVariant(LABEL, tuple(cpu), same_as=ALONE, note=note)
        return
    yield PeerVariant(LABEL, (*(device.id for device in others), "cpu:ort"))
    if len(others) > 1:
        for device in others:
            yield PeerVariant(f"{LABEL}, {device.id} and CPU", (device.id, "cpu:ort"))


class OrtProvidersContender(WholeModelContender):
    """An `InferenceSession` over several providers, with fallback to the CPU."""

    def load(self, model: Path, feeds: Arrays, options: ContenderOptions) -> str:
        """See `Contender.load`."""
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads or 0
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        available = engines.discover()  # which also registers the providers' libraries
        providers: list[tuple[str, dict[str, str]]] = []
        for device in select([id_ for id_ in options.settings["devices"] if id_ != "cpu:ort"], available):
            options_of_provider = _OPTIONS.get(device.native, {})
            units = [unit for unit in ort.get_ep_devices() if unit.ep_name == device.native]
            if units:
                settings.add_provider_for_devices([_unit_of(device, units)], options_of_provider)
            else:
                providers.append((device.native, options_of_provider))
        requested = [*providers, (_CPU, {})] if providers else None
        self._session = ort.InferenceSession(str(model), settings, providers=requested)
        self._names = [output.name for output in self._session.get_outputs()]
        self._feeds = dict(feeds)
        nodes: Counter[str] = Counter()
        for group in self._session.get_provider_graph_assignment_info():
            nodes[group.ep_name] += len(group.get_nodes())
        return ", ".join(f"{name.removesuffix('ExecutionProvider')} {count} nodes" for name, count in nodes.items())

    def run(self) -> dict[str, np.ndarray]:
        """See `Contender.run`."""
        return dict(zip(self._names, self._session.run(self._names, self._feeds), strict=True))


def _unit_of(device: Device, units: Sequence[Any]) -> Any:
    """Return the provider's unit of the device's number and kind; a provider may also list the host's CPU."""
    matching = [unit for unit in units if str(unit.device.type.name).lower() == device.kind] or list(units)
    number = int(device.id.partition("#")[2] or 0)
    return matching[min(number, len(matching) - 1)]


CONTENDER = OrtProvidersContender
