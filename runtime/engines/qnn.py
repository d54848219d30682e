"""Qualcomm's Hexagon NPU through ONNX Runtime's QNN plugin; on x86 its simulator, for placement and numerics.

The NPU always computes floats in half precision, and needs static shapes.
"""

from __future__ import annotations

import platform
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..device import Device, Limits
from ..errors import EngineMissing
from .base import EngineCapabilities, LoadOptions
from .common.decoder_support import DecoderSupport
from .ort_parts.compiled_models import is_stored, open_compiled
from .ort_parts.ort_module import OrtModule
from .ort_parts.ort_providers import STDERR, STDOUT, ep_devices, kind_of, plugin, redirected, register, unit_of
from .ort_parts.ort_session import Provider, open_module

EP = "QNNExecutionProvider"
_LIMITS = Limits(
    dtypes=(
        "float32", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "bool",
    ),
    static_shapes=True,
    maximum_rank=5,
)  # fmt: skip
_X86 = ("x86_64", "amd64")
_SIMULATED_CHIP = {"htp_arch": "75", "soc_model": "57"}
"""Snapdragon 8 Gen 3: the chip that the simulator emulates."""


class QnnEngine:
    """ONNX Runtime's QNN execution provider, on the Hexagon Tensor Processor."""

    name = "qnn"
    package = "trisect[qnn]"
    capabilities = EngineCapabilities(half_precision_kinds=frozenset({"npu"}), vendor="qualcomm")

    def devices(self) -> list[Device]:
        """Return the NPUs that the provider lists; on x86 the simulator.

        Raises
        ------
        EngineMissing
            Where the plugin is not installed, cannot be loaded, or finds nothing.
        """
        package = plugin("onnxruntime_qnn", "qnn")
        register(EP, package.get_library_path())
        units = _units()
        if not units:
            raise EngineMissing("onnxruntime-qnn finds no Hexagon NPU on this machine")
        release = version("onnxruntime-qnn")
        return [
            Device(
                id="npu:qnn" if index == 0 else f"npu:qnn#{index}",
                kind="npu",
                engine=self.name,
                name="Qualcomm Hexagon simulator" if _is_simulated() else "Qualcomm Hexagon",
                reality="simulated" if _is_simulated() else "hardware",
                engine_version=release,
                native=EP,
                limits=_LIMITS,
            )
            for index, _ in enumerate(units)
        ]

    def load(self, model: Path | bytes, device: Device, options: LoadOptions) -> OrtModule:
        """Load an ONNX file; see `Engine.load`. Nodes that would fall back to the CPU are an error."""
        provider = _provider(device)
        # The simulator prints a banner to standard output, which may be the user's JSON.
        with redirected(STDOUT, STDERR) if _is_simulated() else nullcontext():
            if options.compiled_folder is None or isinstance(model, bytes):
                return open_module(model, device, options, provider)
            return open_compiled(model, device, options, provider)

    def is_compiled(self, model: Path, device: Device, options: LoadOptions) -> bool:
        """Return whether a model is stored in compiled form; see `trisect.runtime.engines.is_compiled`."""
        return is_stored(model, device, options, _provider(device))

    def decoder_support(self, device: Device) -> DecoderSupport:
        """Return how it runs language models; see `trisect.runtime.engines.decoder_support`."""
        return DecoderSupport(("static",), evidence="stand-in")


def _provider(device: Device) -> Provider:
    # By default it runs the first and last (de)quantisation on the CPU, which would be a fallback.
    settings = {"backend_type": "htp", "offload_graph_io_quantization": "0"}
    if _is_simulated():
        settings |= _SIMULATED_CHIP
    return Provider([unit_of(device, _units())], settings)


def _units() -> list[Any]:
    """Return the provider's units; it also lists the host's CPU, which on x86 is the simulator."""
    kind = "cpu" if _is_simulated() else "npu"
    return [unit for unit in ep_devices(EP) if kind_of(unit) == kind][: 1 if _is_simulated() else None]


def _is_simulated() -> bool:
    return platform.machine().lower() in _X86
