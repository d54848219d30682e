"""What every engine's file needs and no vendor gives.

The host's name and memory, a model's signature as its file declares it, and errors of one line.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from onnx import TensorProto, ValueInfoProto

from ...device import Device
from ...errors import EngineFailed, InvalidModel, TrisectError
from ...tensors.onnx_types import spec_of
from ...tensors.tensor_spec import TensorSpec

_NOISE = re.compile(
    r"^(Exception from |FrontEnd API failed|Model wasn't fully converted|Summary:|While validating "
    r"|-- .*with a message:$|$)"
)
_CHECK = re.compile(r"Check '.*' failed at \S+$")
_PREFIX = re.compile(r"^(-- |\[ONNXRuntimeError\] : \d+ : \w+ : |Fatal error: )+")
_SOURCE = re.compile(r"/\S+\.(cc|h|cpp|hpp):\d+ \S+ [^:]+::.*?\) ")
_GRAPH, _NAME, _INITIALIZER, _INPUT, _OUTPUT = 7, 2, 5, 11, 12
_NAME_LIMIT_BYTES, _VALUE_INFO_LIMIT_BYTES = 1 << 16, 1 << 20


def reason(error: BaseException) -> str:
    """The first line of a vendor's message that says something, without its source-file prefixes.

    Examples
    --------
    >>> reason(RuntimeError("Exception from src/core.cpp:1:\\nException from b.cpp:2:\\nno kernel for Foo\\n\\n"))
    'no kernel for Foo'
    """
    lines = [_PREFIX.sub("", line.strip()) for line in str(error).splitlines() if not _NOISE.match(line.strip())]
    told = [(_CHECK.sub("", line).strip(), bool(_CHECK.search(line))) for line in lines]
    told = [(line, is_subject) for line, is_subject in told if line]
    if not told:
        return type(error).__name__
    subject, continues = told[0]
    text = f"{subject}: {told[1][0]}" if continues and len(told) > 1 else subject
    return _SOURCE.sub("", text)[:400]


def engine_error(
    device: Device, failure: str, error: BaseException | str, *, remedy: str | None = None
) -> EngineFailed:
    """Return the error of an engine that failed on a device, with the vendor's reason in one line.

    Parameters
    ----------
    device : Device
    failure : str
        What the device could not do, as in ``"could not run"``.
    error : BaseException or str
        The vendor's exception, or the reason itself.

    Examples
    --------
    >>> device = Device("npu:x", "npu", "x", "")
    >>> print(engine_error(device, "could not run", RuntimeError("out of tiles")))
    npu:x could not run: out of tiles
    """
    why = error if isinstance(error, str) else reason(error)
    return EngineFailed(f"{device.id} {failure}: {why}", remedy=remedy, device=device.id, reason=why)


def closed_module_error(device: Device) -> EngineFailed:
    """Return the error of a module that is used after it was closed."""
    return EngineFailed(f"the module on {device.id} is closed", remedy="load it again", device=device.id)


def cpu_name() -> str:
    """What the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def host_memory_bytes() -> int | None:
    """Memory of this machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def with_shapes(spec: TensorSpec, sizes: Mapping[str, int]) -> TensorSpec:
    """A tensor's description with values put in for symbolic dimensions.

    Examples
    --------
    >>> with_shapes(TensorSpec("x", "float32", ("batch", 3)), {"batch": 2}).shape
    (2, 3)
    """
    shape = tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.shape)
    return TensorSpec(spec.name, spec.dtype, shape)


def refuse_open_shapes(device: Device, label: str, inputs: Iterable[TensorSpec]) -> None:
    """Say what a device that wants fixed shapes misses, before its compiler says it in its own way.

    Raises
    ------
    EngineFailed
        Naming the input and the dimension.

    Examples
    --------
    >>> from trisect.runtime.device import Limits
    >>> npu = Device("npu:x", "npu", "x", "", limits=Limits(static_shapes=True))
    >>> refuse_open_shapes(npu, "m.onnx", [TensorSpec("x", "float32", (1, 3))])
    """
    if not device.limits.static_shapes:
        return
    for spec in inputs:
        dim = next((dim for dim in spec.shape if isinstance(dim, str)), None)
        if dim is not None:
            raise engine_error(
                device,
                f"cannot load {label}",
                f"it wants fixed shapes, and {spec.name!r} has {dim!r}",
                remedy=f"bind it with --shape {dim}=NUMBER" if dim not in ("?", "...") else "place it elsewhere",
            )


@dataclass(frozen=True)
class Signature:
    """Inputs (those without a default) and outputs as the ONNX file declares them, in its order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def signature(model: Path | bytes) -> Signature:
    """Read a model's inputs and outputs without reading its weights.

    Engines rename or drop symbolic dimensions, so the file itself is asked. Only the headers of its messages are
    walked: a model of gigabytes costs some hundred microseconds.

    Raises
    ------
    InvalidModel
        For a file that is not ONNX, or that is cut short.
    """
    label = "the model" if isinstance(model, bytes) else model.name
    try:
        with BytesIO(model) if isinstance(model, bytes) else model.open("rb") as file:
            return _walk(file, label)
    except (OSError, EOFError, ValueError) as error:
        raise InvalidModel(f"{label} cannot be read as ONNX: {reason(error)}", remedy="is it complete?") from error
    except TrisectError:
        raise
    except Exception as error:  # protobuf's DecodeError has no common base over its implementations
        raise InvalidModel(f"{label} is not a sound ONNX file: {reason(error)}") from error


def _walk(file: BinaryIO, label: str) -> Signature:
    end = file.seek(0, os.SEEK_END)
    graph = next(((at, size) for number, at, size in _fields(file, 0, end) if number == _GRAPH), None)
    if graph is None:
        raise ValueError("it holds no graph")
    inputs: list[ValueInfoProto] = []
    outputs: list[ValueInfoProto] = []
    given: set[str] = set()
    for number, at, size in _fields(file, graph[0], graph[0] + graph[1]):
        if number in (_INPUT, _OUTPUT):
            file.seek(at)
            (inputs if number == _INPUT else outputs).append(
                ValueInfoProto.FromString(_read(file, size, _VALUE_INFO_LIMIT_BYTES))
            )
        elif number == _INITIALIZER:
            given.update(_initializer_name(file, at, size))
    return Signature(
        tuple(spec_of(value, label) for value in inputs if value.name not in given),
        tuple(spec_of(value, label) for value in outputs),
    )


def _initializer_name(file: BinaryIO, at: int, size: int) -> Iterator[str]:
    name_field = TensorProto.DESCRIPTOR.fields_by_name["name"].number
    for number, start, length in _fields(file, at, at + size):
        if number == name_field:
            file.seek(start)
            yield _read(file, length, _NAME_LIMIT_BYTES).decode("utf-8")
            return


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Length-delimited fields of a protobuf message: number, where the payload starts, its length."""
    at = start
    while at < end:
        file.seek(at)
        key = _varint(file)
        wire = key & 7
        if wire == 2:
            length = _varint(file)
            payload = file.tell()
            if payload + length > end:
                raise EOFError("it is cut short")
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
            raise EOFError("it is cut short")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("it is not a protobuf message")


def _read(file: BinaryIO, size: int, limit: int) -> bytes:
    if size > limit:
        raise ValueError(f"a name or type in it takes {size} bytes")
    return file.read(size)
