"""ONNX Runtime's CPU kernels: the engine of trisect's reference numerics."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from ..device import Device
from ..tensors.tensor_spec import Arrays
from .base import EngineCapabilities, EngineMemory, LoadOptions
from .common.decoder_support import DecoderSupport
from .common.host_info import cpu_name, host_memory_bytes
from .common.kernels import Kernel
from .ort_parts.ort_kernels import measure_kernels
from .ort_parts.ort_module import OrtModule
from .ort_parts.ort_session import open_module

_DEVICE_ID = "cpu:ort"
_PROVED = ("1.31.1",)


class OrtEngine:
    """ONNX Runtime on the CPU."""

    name = "ort"
    package = "onnxruntime"
    capabilities = EngineCapabilities(
        external_data_folder=True,
        # MatMulNBits is packed once: levels, and a float32 scale and sum per block; the float32 scales that it was
        # packed from stay too. Measured with 1.31 on random models of 1.2 billion parameters: within 3 %.
        memory=EngineMemory(
            copies=1.0, bytes_per_block=12, bytes_per_offset=4, bytes_per_float=4, cache_copies=1.0, base_bytes=32 << 20
        ),
    )

    def devices(self) -> list[Device]:
        """Return the CPU."""
        return [
            Device(
                id=_DEVICE_ID,
                kind="cpu",
                engine=self.name,
                name=cpu_name(),
                memory_bytes=host_memory_bytes(),
                engine_version=ort.__version__,
                native="CPUExecutionProvider",
            )
        ]

    def load(self, model: Path | bytes, device: Device, options: LoadOptions) -> OrtModule:
        """Load an ONNX file; external weights are memory-mapped.

        ``options.extra`` holds ONNX Runtime's session configuration entries.

        Raises
        ------
        EngineFailed
            With ONNX Runtime's reason in one line.
        """
        return open_module(model, device, options)

    def decoder_support(self, device: Device) -> DecoderSupport:
        """Return how it runs language models; see `trisect.runtime.engines.decoder_support`."""
        return DecoderSupport(
            ("in-place", "growing"), ("float32", "float16"), soft_caps=True, windowed_cache=True, evidence="hardware",
            proved_versions=_PROVED,
        )  # fmt: skip

    def kernels(
        self, model: Path, device: Device, options: LoadOptions, feeds: Arrays, duration_s: float
    ) -> tuple[Kernel, ...]:
        """Measure the kernels of a model; see `ProfilingEngine.kernels`."""
        return measure_kernels(model, device, options, feeds, duration_s)
