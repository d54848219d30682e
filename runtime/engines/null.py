"""A device that computes nothing: zeros of the right shapes, for simulation and for plans of thousands of devices.

What it costs is what a profile says of it. It is never found by itself: ``TRISECT_NULL_DEVICES`` says which there are
(``npu,gpu:2`` = one NPU and two GPUs), and a plan that holds such devices runs on them whatever is set.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

import numpy as np
import onnx

from ..device import Device, Kind
from ..errors import EngineFailed, EngineMissing
from ..tensors.conversions import ConversionLog
from ..tensors.tensor_spec import UNKNOWN_RANK, Arrays, TensorSpec
from ..tensors.tensors import check_buffers, check_feeds, dtype_of
from .base import LoadOptions
from .common.engine_helpers import closed_module_error, reason, refuse_open_shapes, signature, with_shapes

ENVIRONMENT = "TRISECT_NULL_DEVICES"
_MOST = 100_000


class NullEngine:
    """Devices that compute nothing."""

    name = "null"
    package = "trisect"

    def devices(self) -> list[Device]:
        """Those that the environment asks for; else none.

        Raises
        ------
        EngineMissing
            For something in the variable that is no kind, or no number.
        """
        return [device for part in os.environ.get(ENVIRONMENT, "").split(",") if part for device in _asked(part)]

    def load(self, model: Path | bytes, device: Device, options: LoadOptions) -> NullModule:
        """Read a model's inputs and outputs, and no more than that unless shapes have to be inferred.

        ``options.extra["run_s"]`` is how long each run is to last: the time of a device that needs no processor.

        Raises
        ------
        EngineFailed
            For open shapes on a device that wants them fixed.
        """
        label = "the model" if isinstance(model, bytes) else model.name
        declared = signature(model)
        inputs = tuple(with_shapes(spec, options.shapes) for spec in declared.inputs)
        outputs = tuple(with_shapes(spec, options.shapes) for spec in declared.outputs)
        refuse_open_shapes(device, label, inputs)
        return NullModule(model, device, inputs, outputs, float(options.extra.get("run_s", 0)))


def null_devices(kind: Kind, count: int) -> list[Device]:
    """So many devices that compute nothing.

    Examples
    --------
    >>> [device.id for device in null_devices("npu", 3)]
    ['npu:null', 'npu:null#1', 'npu:null#2']
    """
    return [
        Device(
            id=f"{kind}:null#{index}" if index else f"{kind}:null",
            kind=kind,
            engine=NullEngine.name,
            name=f"simulated {kind.upper()} {index}",
            reality="simulated",
            engine_version="1",
            native=str(index),
        )
        for index in range(count)
    ]


def _asked(part: str) -> list[Device]:
    kind, _, count = part.strip().partition(":")
    if kind not in get_args(Kind) or not (count or "1").isdecimal() or not 0 < int(count or "1") <= _MOST:
        raise EngineMissing(f"{ENVIRONMENT} has {part!r}", remedy="write it as npu,gpu:2")
    return null_devices(cast("Kind", kind), int(count or "1"))


class NullModule:
    """A model of which only the signature is known."""

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
        """Zeros (and empty strings) of the shapes that the model would give; see `Module.run`.

        Raises
        ------
        EngineFailed
            Where a shape depends on values, which nobody computes here.
        """
        shapes = self._shapes(check_feeds(self.inputs, feeds, log))
        if self._run_s:
            time.sleep(self._run_s)
        return {spec.name: _blank(spec, shapes[spec.name]) for spec in self.outputs}

    def bind(self, inputs: Arrays, outputs: Arrays) -> NullBinding:
        """Fix buffers; see `Module.bind`."""
        check_buffers(inputs, self.inputs, outputs, self.outputs)
        shapes = self._shapes(inputs)
        for name, array in outputs.items():
            if array.shape != shapes[name]:
                raise EngineFailed(
                    f"{self.device.id} gives {name!r} in shape {shapes[name]}, not {array.shape}", device=self.device.id
                )
        made = {spec.name: _blank(spec, shapes[spec.name]) for spec in self.outputs if spec.name not in outputs}
        return NullBinding(outputs, made, self._run_s)

    def close(self) -> None:
        """Forget the model; a second call does nothing."""
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
        found = {spec.name: with_shapes(spec, sizes).shape for spec in self.outputs}
        if any(isinstance(dim, str) for shape in found.values() for dim in shape):
            found |= _inferred(self._model, {name: array.shape for name, array in feeds.items()})
        for name, shape in found.items():
            if any(isinstance(dim, str) for dim in shape):
                raise EngineFailed(
                    f"{self.device.id} cannot tell the shape of {name!r}: it depends on values", device=self.device.id
                )
        return cast("dict[str, tuple[int, ...]]", found)


class NullBinding:
    """Fixed buffers that are set to zero."""

    def __init__(self, bound: Arrays, made: Arrays, run_s: float) -> None:
        self._bound = bound
        self._made = made
        self._run_s = run_s

    def run(self) -> None:
        """Blank the bound outputs; see `Binding.run`."""
        if self._run_s:
            time.sleep(self._run_s)
        for array in self._bound.values():
            array.fill(0)

    def output(self, name: str) -> np.ndarray:
        """The array of an output; see `Binding.output`."""
        return self._bound[name] if name in self._bound else self._made[name]


def _blank(spec: TensorSpec, shape: tuple[int, ...]) -> np.ndarray:
    dtype = dtype_of(spec.dtype)
    return np.full(shape, "", dtype) if dtype.kind == "O" else np.zeros(shape, dtype)


def _inferred(model: Path | bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int | str, ...]]:
    """Output shapes where the file does not declare them in terms of its inputs' symbols."""
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
    except Exception as error:  # protobuf and the inference have kinds of their own
        raise EngineFailed(f"the shapes of the model cannot be told: {reason(error)}") from error
    return {
        value.name: tuple(d.dim_value if d.HasField("dim_value") else "?" for d in value.type.tensor_type.shape.dim)
        if value.type.tensor_type.HasField("shape")
        else UNKNOWN_RANK
        for value in graph.output
    }
