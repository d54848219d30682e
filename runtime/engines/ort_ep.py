"""All other execution providers that ONNX Runtime lists: DirectML, OpenVINO, TensorRT RTX, MIGraphX, the user's own.

No code here is specific to a vendor. A provider that is registered before devices are discovered becomes a device;
the command line registers those in ``TRISECT_ORT_EPS`` (``NAME=LIBRARY``, separated by the system's path separator).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, cast

import onnxruntime as ort

from ..device import Device, Kind
from ..errors import EngineFailed, EngineMissing
from . import cuda, qnn, webgpu
from .base import LoadOptions
from .ort_parts.ort_module import OrtModule
from .ort_parts.ort_providers import kind_of, register
from .ort_parts.ort_session import Provider, open_module

ENVIRONMENT = "TRISECT_ORT_EPS"
_OWN_ENGINES = ("CPUExecutionProvider", cuda.EP, qnn.EP, webgpu.EP)
"""Providers that have an engine of their own in this package."""


class OrtProviderEngine:
    """ONNX Runtime's other execution providers."""

    name = "ort_ep"
    package = "onnxruntime"

    def devices(self) -> list[Device]:
        """Return a device for each listed pair of provider and hardware: ``gpu:dml``, ``npu:openvino-ep``.

        Raises
        ------
        EngineMissing
            For a library named in ``TRISECT_ORT_EPS`` that cannot be loaded.
        """
        for entry in filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep)):
            name, separator, library = entry.partition("=")
            if not separator:
                raise EngineMissing(f"{ENVIRONMENT} has {entry!r}", remedy="write it as NAME=LIBRARY")
            register(name, library)
        return [device for device, _ in _listed()]

    def load(self, model: Path | bytes, device: Device, options: LoadOptions) -> OrtModule:
        """Load an ONNX file; see `Engine.load`. Nodes that would fall back to the CPU are an error."""
        unit = next((unit for listed, unit in _listed() if listed.id == device.id), None)
        if unit is None:
            raise EngineFailed(
                f"{device.id} is gone: ONNX Runtime does not list it", remedy="see trisect devices", device=device.id
            )
        return open_module(model, device, options, Provider([unit]))


def _listed() -> list[tuple[Device, Any]]:
    listed: list[tuple[Device, Any]] = []
    count: Counter[str] = Counter()
    for unit in ort.get_ep_devices():
        if unit.ep_name in _OWN_ENGINES:
            continue
        kind = cast("Kind", kind_of(unit))
        base = f"{kind}:{_slug(unit.ep_name)}"
        index = count[base]
        count[base] += 1
        device = Device(
            id=f"{base}#{index}" if index else base,
            kind=kind,
            engine=OrtProviderEngine.name,
            name=str(unit.device.metadata.get("Description") or f"{unit.ep_name} on {unit.device.vendor}"),
            engine_version=str(unit.ep_metadata.get("version") or ort.__version__),
            native=unit.ep_name,
        )
        listed.append((device, unit))
    return listed


def _slug(name: str) -> str:
    """Return a provider's name as the second half of a device id.

    Examples
    --------
    >>> _slug("DmlExecutionProvider"), _slug("OpenVINOExecutionProvider"), _slug("My EP.2")
    ('dml', 'openvino-ep', 'my-ep-2')
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.removesuffix("ExecutionProvider").lower()).strip("-") or "ep"
    return f"{slug}-ep" if slug in ("openvino", "ort", "null") else slug  # names of engines
