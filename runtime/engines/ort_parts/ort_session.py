"""Opens ONNX Runtime sessions, for every engine on ONNX Runtime.

ONNX Runtime silently runs on the CPU what an execution provider cannot run. Here that is an error that names the nodes:
a plan states where each node runs, and costs were measured there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime as ort

from ...core_affinity import CoreAffinity
from ...device import Device
from ...errors import UnsupportedModel
from ...tensors.containers import container_of
from ...tensors.dtypes import is_bindable, is_numpy_dtype
from ..base import LoadOptions
from ..common.engine_errors import engine_error
from ..common.model_signature import Signature, bind_signature, model_label
from .ort_device_memory import OrtDeviceModule
from .ort_module import OrtModule

_COPIES = ("MemcpyFromHost", "MemcpyToHost")
"""Copies that ONNX Runtime inserts between a device and the host: no nodes of the model."""
_NAMED_MAX = 5
_FATAL = 4
ort.disable_telemetry_events()  # on Windows its packages report each session


@dataclass(frozen=True)
class Provider:
    """An execution provider for a session."""

    ep_devices: Sequence[Any] = ()
    """From `onnxruntime.get_ep_devices`; none = the provider that `Device.native` names, built into the package."""
    options: Mapping[str, str] = field(default_factory=dict)
    memory: str = ""
    """ONNX Runtime's name for the device's memory, where tensors can stay there between models."""


def open_module(
    model: Path | bytes, device: Device, options: LoadOptions, provider: Provider | None = None
) -> OrtModule:
    """Load an ONNX file on an execution provider; external weights are memory-mapped.

    Parameters
    ----------
    model : Path or bytes
    device : Device
        Its `native` is the provider's name.
    options : LoadOptions
        ``extra`` holds session configuration entries.
    provider : Provider, optional
        None = the CPU provider.

    Raises
    ------
    EngineFailed
        With ONNX Runtime's reason in one line, or the nodes that would fall back to the CPU.
    UnsupportedModel
        For inputs or outputs of a type that its Python interface does not support.
    """
    label = model_label(model)
    signature = bind_signature(model, device, options.shapes)
    inputs, outputs = signature.inputs, signature.outputs
    _check_types(device, label, signature)
    affinity = affinity_of(options)
    settings = session_options(options, affinity)
    providers: list[Any] | None = [device.native]
    if provider is not None:
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if provider.ep_devices:
            settings.add_provider_for_devices(list(provider.ep_devices), dict(provider.options))
            providers = None
        else:
            providers = [(device.native, dict(provider.options))]
    try:
        source = model if isinstance(model, bytes) else str(model)
        # The package's own fallback would print to standard output and continue without the provider.
        session = ort.InferenceSession(source, settings, providers=providers, enable_fallback=0)
    except Exception as error:  # its exceptions share no base
        raise engine_error(device, f"cannot load {label}", error) from error
    if provider is not None:
        _check_fallback(session, device, label)
        if provider.memory and all(is_bindable(spec) for spec in inputs + outputs):
            return OrtDeviceModule(
                session, device, inputs, outputs, provider.memory, provider.ep_devices[0], captures=options.capture
            )
    return OrtModule(session, device, inputs, outputs, affinity if provider is None else None)


def _check_types(device: Device, label: str, signature: Signature) -> None:
    """Refuse types that a run cannot pass: lists of non-numpy dtypes, and such outputs beside a list."""
    inputs, outputs = signature.inputs, signature.outputs
    lists = [spec for spec in inputs + outputs if container_of(spec.dtype) is not None]
    non_numpy = [spec for spec in outputs if not is_numpy_dtype(spec.dtype)]
    unknown = [spec for spec in lists if not is_numpy_dtype(spec.dtype)]
    refused = unknown or (non_numpy if lists else [])
    if refused:
        why = (
            f"{refused[0].name!r} is {refused[0].dtype}, "
            f"which ONNX Runtime does not support {'in lists' if unknown else 'beside lists'}"
        )
        raise UnsupportedModel(f"{device.id} cannot load {label}: {why}", remedy="place it elsewhere", reason=why)


def affinity_of(options: LoadOptions) -> CoreAffinity | None:
    """Return the cores for a session's threads; None where the operating system decides."""
    affinity = CoreAffinity.current() if options.pinned else None
    if affinity is not None and options.threads not in (None, affinity.count):
        return None  # fewer threads than cores: other engines may use the rest, and which is unknown
    return affinity


def session_options(options: LoadOptions, affinity: CoreAffinity | None) -> ort.SessionOptions:
    """Return ONNX Runtime's settings for a session."""
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = _FATAL
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    entries = {
        "session.intra_op.allow_spinning": "1" if options.spin else "0",
        "session.inter_op.allow_spinning": "1" if options.spin else "0",
    }
    if options.spin_limit_us is not None:
        entries["session.intra_op.spin_duration_us"] = str(options.spin_limit_us)
    if options.external_data_folder is not None:
        entries["session.model_external_initializers_file_folder_path"] = options.external_data_folder
    if options.precision == "fast":
        entries["mlas.enable_gemm_fastmath_arm64_bfloat16"] = "1"
    if affinity is not None:
        # By default it uses all cores of the machine, even those that this process must not use.
        settings.intra_op_num_threads = affinity.count
        if affinity.helpers:  # ONNX Runtime counts from one
            helpers = [",".join(str(number + 1) for number in core) for core in affinity.helpers]
            entries["session.intra_op_thread_affinities"] = ";".join(helpers)
    entries.update((key, str(value)) for key, value in options.extra.items())
    for key, value in entries.items():
        settings.add_session_config_entry(key, value)
    for name, size in options.shapes.items():
        settings.add_free_dimension_override_by_name(name, size)
    return settings


def _check_fallback(session: ort.InferenceSession, device: Device, label: str) -> None:
    fallen_back = [
        f"{node.name} ({node.op_type})" if node.name else node.op_type
        for group in session.get_provider_graph_assignment_info()
        if group.ep_name != device.native
        for node in group.get_nodes()
        if node.op_type not in _COPIES
    ]
    if fallen_back:
        more = f" and {len(fallen_back) - _NAMED_MAX} more" if len(fallen_back) > _NAMED_MAX else ""
        raise engine_error(
            device,
            f"cannot load {label}",
            f"it would fall back to the CPU for {', '.join(fallen_back[:_NAMED_MAX])}{more}",
            remedy="place these nodes on another device",
        )
