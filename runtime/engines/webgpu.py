"""Any GPU with a Vulkan, Metal or Direct3D driver, through ONNX Runtime's WebGPU plugin.

Without a GPU the plugin can run on a software driver (Mesa's lavapipe): slow, but with the same uploads, shaders and
downloads, so that GPU plans can be tested on any machine. Such a device has the reality ``software``.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import version
from pathlib import Path

from ..device import Device, Limits
from ..errors import EngineFailed, EngineMissing
from .base import UNPACKED, EngineCapabilities, LoadOptions
from .common.decoder_support import DecoderSupport
from .ort_parts.ort_module import OrtModule
from .ort_parts.ort_providers import (
    STDERR,
    ep_devices,
    kind_of,
    plugin,
    quiet,
    redirected,
    register,
    tiny_model,
    unit_of,
)
from .ort_parts.ort_session import Provider, open_module

EP = "WebGpuExecutionProvider"
_REMEDY = "install a GPU driver with Vulkan, or for a software one Mesa 25 or newer (Debian: mesa-vulkan-drivers)"
_LIMITS = Limits(dtypes=("float32", "float16", "int32", "uint32", "int64", "bool", "uint8", "int8"))


class WebGpuEngine:
    """ONNX Runtime's WebGPU execution provider."""

    name = "webgpu"
    package = "trisect[webgpu]"
    capabilities = EngineCapabilities(own_memory=True, external_data_folder=True, memory=UNPACKED)

    def devices(self) -> list[Device]:
        """Return the one adapter that the provider selects.

        Raises
        ------
        EngineMissing
            Where the plugin is not installed, or no driver works.
        """
        package = plugin("onnxruntime_ep_webgpu", "webgpu")
        # Read when the library is loaded. The software driver is used only on a machine without a GPU.
        os.environ.setdefault("ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER", "1")
        register(EP, package.get_library_path())
        adapters = ep_devices(EP)
        if not adapters:
            raise EngineMissing("onnxruntime-ep-webgpu finds no GPU", remedy=_REMEDY)
        is_software = kind_of(adapters[0]) == "cpu"
        device = Device(
            id="gpu:webgpu",
            kind="gpu",
            engine=self.name,
            name="WebGPU on a software driver" if is_software else f"WebGPU on {adapters[0].device.vendor or 'a GPU'}",
            reality="software" if is_software else "hardware",
            engine_version=version("onnxruntime-ep-webgpu"),
            native=EP,
            limits=_LIMITS,
        )
        if is_software:
            _try(device)
        return [device]

    def load(self, model: Path | bytes, device: Device, options: LoadOptions) -> OrtModule:
        """Load an ONNX file; see `Engine.load`. Nodes that would fall back to the CPU are an error."""
        unit = unit_of(device, ep_devices(EP)[:1])
        with quiet(), redirected(STDERR, None):  # Dawn prints warnings there
            settings = {"enableGraphCapture": "1"} if options.capture else {}
            return open_module(model, device, options, Provider([unit], settings, memory="webgpu"))

    def decoder_support(self, device: Device) -> DecoderSupport:
        """Return how it runs language models; see `trisect.runtime.engines.decoder_support`.

        Its GroupQueryAttention ignores soft caps: such models run as a static graph, which has operators for them.
        """
        return DecoderSupport(("in-place", "static"), ("float32", "float16"), captures_steps=True, evidence="stand-in")


@cache
def _try(device: Device) -> None:
    """Run one operator: the plugin lists a software driver without checking that there is one."""
    try:
        WebGpuEngine().load(tiny_model(), device, LoadOptions()).close()
    except EngineFailed as error:
        raise EngineMissing("onnxruntime-ep-webgpu finds no GPU, nor a software driver", remedy=_REMEDY) from error
