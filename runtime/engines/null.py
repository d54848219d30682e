"""Devices that compute nothing: zeros of the right shapes, for simulation and for plans of thousands of devices.

Their costs come from a profile. Only those that ``TRISECT_NULL_DEVICES`` names are discovered (``npu,gpu:2`` = one NPU
and two GPUs); a plan that uses null devices runs whatever the variable is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

import numpy as np
import onnx

from ..device import Device, Kind
from ..errors import EngineFailed, EngineMissing
from ..tensors.conversions import ConversionLog
from ..tensors.dtypes import dtype_of
from ..tensors.feed_checks import check_buffers, check_feeds
from ..tensors.tensor_spec import UNKNOWN_RANK, Arrays, TensorSpec
from .base import EngineCapabilities, LoadOptions
from .common.engine_errors import closed_module_error, vendor_message
from .common.model_signature import bind_shape, bind_signature

ENVIRONMENT = "TRISECT_NULL_DEVICES"
_COUNT_MAX = 100_000


class NullEngine:
    """Devices that compute nothing."""

    name = "null"
    package = "trisect"
    capabilities = EngineCapabilities(computes=False)

    def devices(self) -> list[Device]:
        """Return the devices that the environment variable names.

        Raises
        ------
        EngineMissing
            For a malformed value of the variable.
        """
        parts = filter(None, os.environ.get(ENVIRONMENT, "").split(","))
        return [device for part in parts for device in _parse_devices(part)]

    def device_on_request(self, device: Device) -> Device | None:
        """Return a device that no list names: any number of them exists; with the limits that it was given."""
        kind, _, number = device.id.replace(":null", "#", 1).partition("#")
        number = number.removeprefix("#") or "0"
        if kind not in get_args(Kind) or not number.isdecimal() or int(number) >= _COUNT_MAX:
            return None
        listed = _null_device(cast("Kind", kind), int(number))
        return replace(listed, limits=device.limits) if listed.id == device.id else None

    def load(self, model: Path | bytes, device: Device, options: LoadOptions) -> NullModule:
        """Read a model's inputs and outputs; the rest of the file only where shapes have to be inferred.

        ``options.extra["run_s"]`` is the duration of each run, during which the host's processor is idle.

        Raises
        ------
        EngineFailed
            For symbolic dimensions on a device that needs static shapes.
        """
        signature = bind_signature(model, device, options.shapes)
        return NullModule(model, device, signature.inputs, signature.outputs, float(options.extra.get("run_s", 0)))


def null_devices(kind: Kind, count: int) -> list[Device]:
    """Return devices that compute nothing.

    Examples
    --------
    >>> [device.id for device in null_devices("npu", 3)]
    ['npu:null', 'npu:null#1', 'npu:null#2']
    """
    return [_null_device(kind, index) for index in range(count)]


def _null_device(kind: Kind, index: int) -> Device:
    return Device(
        id=f"{kind}:null#{index}" if index else f"{kind}:null",
        kind=kind,
        engine=NullEngine.name,
        name=f"simulated {kind.upper()} {index}",
        reality="simulated",
        engine_version="1",
        native=str(index),
    )


def _parse_devices(part: str) -> list[Device]:
    kind, _, count = part.strip().partition(":")
    if kind not in get_args(Kind) or not (count or "1").isdecimal() or not 0 < int(count or "1") <= _COUNT_MAX:
        raise EngineMissing(f"{ENVIRONMENT} has {part!r}, expected KIND or KIND:COUNT", remedy="write it as npu,gpu:2")
    return null_devices(cast("Kind", kind), int(count or "1"))


class NullModule:
    """A model whose outputs are zeros."""

    def __init__(
        self,
        model: Path | bytes,
        device: Device,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        run_s: float = 0.0,
    ) -> None:
        self.device = device
        self.inputs = inputs
        self.outputs = outputs
        self._model: Path | bytes | None = model
        self._run_s = run_s

    def run(self, feeds: Arrays, log: ConversionLog | None = None) -> dict[str, np.ndarray]:
        """Return zeros (and empty strings) of the shapes of the model's outputs; see `Module.run`.

        Raises
        ------
        EngineFailed
            Where a shape depends on values, which are not computed.
        """
        shapes = self._shapes(check_feeds(self.inputs, feeds, log))
        if self._run_s:
            time.sleep(self._run_s)
        return {spec.name: _zeros(spec, shapes[spec.name]) for spec in self.outputs}

    def bind(self, inputs: Arrays, outputs: Arrays) -> NullBinding:
        """Fix buffers; see `Module.bind`."""
        check_buffers(inputs, self.inputs, outputs, self.outputs)
        shapes = self._shapes(inputs)
        for name, array in outputs.items():
            if array.shape != shapes[name]:
                raise EngineFailed(
                    f"{self.device.id} has output {name!r} of shape {shapes[name]}, the buffer has {array.shape}",
                    device=self.device.id,
                )
        allocated = {spec.name: _zeros(spec, shapes[spec.name]) for spec in self.outputs if spec.name not in outputs}
        return NullBinding(outputs, allocated, self._run_s)

    def close(self) -> None:
        """Release the model; a second call does nothing."""
        self._model = None

    def _shapes(self, feeds: Arrays) -> dict[str, tuple[int, ...]]:
        if self._model is None:
            raise closed_module_error(self.device)
        sizes = {
            dim: size
            for spec in self.inputs
            if spec.shape != UNKNOWN_RANK
            for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
            if isinstance(dim, str) and dim != "?"
        }
        shapes = {spec.name: bind_shape(spec, sizes).shape for spec in self.outputs}
        if any(isinstance(dim, str) for shape in shapes.values() for dim in shape):
            shapes |= _infer_shapes(self._model, {name: array.shape for name, array in feeds.items()})
        for name, shape in shapes.items():
            if any(isinstance(dim, str) for dim in shape):
                raise EngineFailed(
                    f"{self.device.id} cannot infer the shape of {name!r}: it depends on values", device=self.device.id
                )
        return cast("dict[str, tuple[int, ...]]", shapes)


class NullBinding:
    """Fixed buffers that are set to zero."""

    def __init__(self, bound: Arrays, allocated: Arrays, run_s: float) -> None:
        self._bound = bound
        self._allocated = allocated
        self._run_s = run_s

    def run(self) -> None:
        """Set the bound outputs to zero; see `Binding.run`."""
        if self._run_s:
            time.sleep(self._run_s)
        for array in self._bound.values():
            array.fill(0)

    def output(self, name: str) -> np.ndarray:
        """Return the array of an output; see `Binding.output`."""
        return self._bound[name] if name in self._bound else self._allocated[name]


def _zeros(spec: TensorSpec, shape: tuple[int, ...]) -> np.ndarray:
    dtype = dtype_of(spec.dtype)
    return np.full(shape, "", dtype) if dtype.kind == "O" else np.zeros(shape, dtype)


def _infer_shapes(model: Path | bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int | str, ...]]:
    """Infer output shapes that the file does not declare in terms of its inputs' symbols."""
    try:
        proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model, load_external_data=False)
        for value in proto.graph.input:
            if value.name in shapes:
                shape = shapes[value.name]
                elem_type = value.type.tensor_type.elem_type
                value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, elem_type, shape))
        for value in proto.graph.output:
            value.type.tensor_type.ClearField("shape")
        graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    except Exception as error:  # protobuf and shape inference share no base class
        raise EngineFailed(f"the shapes of the model cannot be inferred: {vendor_message(error)}") from error
    return {
        value.name: tuple(d.dim_value if d.HasField("dim_value") else "?" for d in value.type.tensor_type.shape.dim)
        if value.type.tensor_type.HasField("shape")
        else UNKNOWN_RANK
        for value in graph.output
    }
