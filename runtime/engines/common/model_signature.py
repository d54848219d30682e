"""Reads a model's inputs and outputs from its file, and binds their symbolic dimensions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from onnx import TensorProto, ValueInfoProto

from ...device import Device
from ...errors import InvalidModel, TrisectError
from ...tensors.onnx_types import declared_spec
from ...tensors.tensor_spec import TensorSpec
from .engine_errors import engine_error, vendor_message

_GRAPH, _NAME, _INITIALIZER, _INPUT, _OUTPUT = 7, 2, 5, 11, 12
_NAME_LIMIT_BYTES, _VALUE_INFO_LIMIT_BYTES = 1 << 16, 1 << 20


def bind_shape(spec: TensorSpec, sizes: Mapping[str, int]) -> TensorSpec:
    """Return a tensor's description with sizes for symbolic dimensions.

    Examples
    --------
    >>> bind_shape(TensorSpec("x", "float32", ("batch", 3)), {"batch": 2}).shape
    (2, 3)
    """
    shape = tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.shape)
    return replace(spec, shape=shape)


def require_static_shapes(device: Device, label: str, inputs: Iterable[TensorSpec]) -> None:
    """Check the inputs for a device that needs static shapes, with a clearer message than its compiler's.

    Raises
    ------
    EngineFailed
        Naming the input and the dimension.

    Examples
    --------
    >>> from trisect.runtime.device import Limits
    >>> npu = Device("npu:x", "npu", "x", "", limits=Limits(static_shapes=True))
    >>> require_static_shapes(npu, "m.onnx", [TensorSpec("x", "float32", (1, 3))])
    """
    if not device.limits.static_shapes:
        return
    for spec in inputs:
        dim = next((dim for dim in spec.shape if isinstance(dim, str)), None)
        if dim is not None:
            raise engine_error(
                device,
                f"cannot load {label}",
                f"it needs static shapes, and {spec.name!r} has {dim!r}",
                remedy=f"bind it with --shape {dim}=NUMBER" if dim not in ("?", "...") else "place it elsewhere",
            )


@dataclass(frozen=True)
class Signature:
    """Inputs (without those that have a default) and outputs of a model, in the order of its file."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def read_signature(model: Path | bytes) -> Signature:
    """Read a model's inputs and outputs, but not its weights.

    Engines rename or drop symbolic dimensions, so they are read from the file. Only the headers of its messages are
    read: a model of gigabytes takes some hundred microseconds.

    Raises
    ------
    InvalidModel
        For a file that is not ONNX, or that is truncated.
    """
    label = model_label(model)
    try:
        with BytesIO(model) if isinstance(model, bytes) else model.open("rb") as file:
            return _walk(file, label)
    except (OSError, EOFError, ValueError) as error:
        message = f"{label} cannot be read as ONNX: {vendor_message(error)}"
        raise InvalidModel(message, remedy="check that the file is complete") from error
    except TrisectError:
        raise
    except Exception as error:  # protobuf's DecodeError has no common base over its implementations
        raise InvalidModel(f"{label} is not a valid ONNX file: {vendor_message(error)}") from error


def bind_signature(model: Path | bytes, device: Device, sizes: Mapping[str, int]) -> Signature:
    """Read a model's inputs and outputs, with sizes for symbolic dimensions, and check them against the device.

    Raises
    ------
    InvalidModel
        For a file that is not ONNX, or that is truncated.
    EngineFailed
        For a symbolic dimension on a device that needs static shapes.
    """
    declared = read_signature(model)
    inputs = tuple(bind_shape(spec, sizes) for spec in declared.inputs)
    require_static_shapes(device, model_label(model), inputs)
    return Signature(inputs, tuple(bind_shape(spec, sizes) for spec in declared.outputs))


def model_label(model: Path | bytes) -> str:
    """Return what error messages call a model."""
    return "the model" if isinstance(model, bytes) else model.name


def _walk(file: BinaryIO, label: str) -> Signature:
    end = file.seek(0, os.SEEK_END)
    graph = next(((at, size) for number, at, size in _fields(file, 0, end) if number == _GRAPH), None)
    if graph is None:
        raise ValueError("it holds no graph")
    inputs: list[ValueInfoProto] = []
    outputs: list[ValueInfoProto] = []
    initializers: set[str] = set()
    for number, at, size in _fields(file, graph[0], graph[0] + graph[1]):
        if number in (_INPUT, _OUTPUT):
            file.seek(at)
            (inputs if number == _INPUT else outputs).append(
                ValueInfoProto.FromString(_read(file, size, _VALUE_INFO_LIMIT_BYTES))
            )
        elif number == _INITIALIZER:
            initializers.update(_initializer_name(file, at, size))
    return Signature(
        tuple(declared_spec(value, label) for value in inputs if value.name not in initializers),
        tuple(declared_spec(value, label) for value in outputs),
    )


def _initializer_name(file: BinaryIO, at: int, size: int) -> Iterator[str]:
    name_field = TensorProto.DESCRIPTOR.fields_by_name["name"].number
    for number, start, length in _fields(file, at, at + size):
        if number == name_field:
            file.seek(start)
            yield _read(file, length, _NAME_LIMIT_BYTES).decode("utf-8")
            return


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the length-delimited fields of a protobuf message: number, offset of the payload, length."""
    at = start
    while at < end:
        file.seek(at)
        key = _varint(file)
        wire = key & 7
        if wire == 2:
            length = _varint(file)
            payload = file.tell()
            if payload + length > end:
                raise EOFError("it is truncated")
            yield key >> 3, payload, length
            at = payload + length
        elif wire == 0:
            _varint(file)
            at = file.tell()
        elif wire in (1, 5):
            at = file.tell() + (8 if wire == 1 else 4)
        else:
            raise ValueError("it is not a protobuf message")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("it is truncated")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("it is not a protobuf message")


def _read(file: BinaryIO, size: int, limit: int) -> bytes:
    if size > limit:
        raise ValueError(f"a name or type in it takes {size} bytes, expected at most {limit}")
    return file.read(size)
