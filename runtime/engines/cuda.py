"""NVIDIA GPUs through ONNX Runtime's CUDA provider, which the package ``onnxruntime-gpu`` brings.

The provider's library is registered as a plugin, so that ONNX Runtime itself lists the GPUs. An older package has the
provider built in: then only the first GPU is available.
"""

from __future__ import annotations

import contextlib
import io
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime as ort

from ..device import Device
from ..errors import EngineFailed, EngineMissing
from .base import UNPACKED, EngineCapabilities, LoadOptions
from .common.decoder_support import DecoderSupport
from .ort_parts.ort_module import OrtModule
from .ort_parts.ort_providers import ep_devices, kind_of, register, tiny_model, unit_of
from .ort_parts.ort_session import Provider, open_module

EP = "CUDAExecutionProvider"
_LIBRARIES = ("libonnxruntime_providers_cuda.so", "onnxruntime_providers_cuda.dll")
_REMEDY = "check nvidia-smi, and that CUDA 13 and cuDNN 9 are installed (pip install 'onnxruntime-gpu[cuda,cudnn]')"


class CudaEngine:
    """ONNX Runtime's CUDA execution provider."""

    name = "cuda"
    package = "trisect[cuda]"
    capabilities = EngineCapabilities(own_memory=True, external_data_folder=True, memory=UNPACKED, vendor="nvidia")

    def devices(self) -> list[Device]:
        """Return the GPUs that the provider lists.

        Raises
        ------
        EngineMissing
            Where the package is not installed, or no driver reports a GPU.
        """
        folder = Path(ort.__file__).parent / "capi"
        library = next((path for name in _LIBRARIES if (path := folder / name).is_file()), None)
        if library is None:
            raise EngineMissing("onnxruntime-gpu is not installed", remedy="pip install 'trisect[cuda]'")
        # It searches the Python packages for CUDA's libraries, and prints warnings to standard output.
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
        try:
            register(EP, str(library))
        except EngineMissing as error:
            raise EngineMissing(f"CUDA cannot be used: {error.message}", remedy=_REMEDY) from error
        devices = [_device(index, unit) for index, unit in enumerate(_units())]
        if not devices and EP in ort.get_available_providers():
            devices = [_device(0, None)]
            _try(devices[0])
        if not devices:
            raise EngineMissing("onnxruntime-gpu finds no NVIDIA GPU", remedy=_REMEDY)
        return devices

    def load(self, model: Path | bytes, device: Device, options: LoadOptions) -> OrtModule:
        """Load an ONNX file; see `Engine.load`. Nodes that would fall back to the CPU are an error."""
        # TF32 has 10 mantissa bits: fast, but not reference numerics.
        settings = {"use_tf32": "1" if options.precision == "fast" else "0"}
        units = _units()
        if not units and EP in ort.get_available_providers():
            return open_module(model, device, options, Provider((), settings))
        return open_module(model, device, options, Provider([unit_of(device, units)], settings, memory="cuda"))

    def decoder_support(self, device: Device) -> DecoderSupport:
        """Return how it runs language models; see `trisect.runtime.engines.decoder_support`.

        Its GroupQueryAttention has no float32 kernel (``contrib_ops/cuda/bert/group_query_attention.cc`` of ONNX
        Runtime registers float16 and bfloat16).
        """
        return DecoderSupport(("in-place",), ("float16", "bfloat16"), soft_caps=True)


def _device(index: int, unit: Any) -> Device:
    description = str(unit.device.metadata.get("Description") or "") if unit is not None else ""
    return Device(
        id=f"gpu:cuda#{index}" if index else "gpu:cuda",
        kind="gpu",
        engine=CudaEngine.name,
        name=description or "NVIDIA GPU",
        engine_version=ort.__version__,
        native=EP,
    )


def _units() -> list[Any]:
    return [unit for unit in ep_devices(EP) if kind_of(unit) == "gpu"]


@cache
def _try(device: Device) -> None:
    """Run one operator: a built-in provider is listed with or without a GPU."""
    try:
        CudaEngine().load(tiny_model(), device, LoadOptions()).close()
    except EngineFailed as error:
        raise EngineMissing(f"onnxruntime-gpu finds no NVIDIA GPU: {error.message}", remedy=_REMEDY) from error
