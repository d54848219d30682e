"""The one way to the data of a model's tensors, inside its file and in others: nothing that the file says is trusted.

External data must be a regular file beside the model or below its folder, and as long as the tensor's shape requires,
before anything is mapped, copied or allocated. Every tensor is visited, wherever in the model it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from ..errors import InvalidModel, UnsupportedModel
from ..untrusted_files import check_regular, open_regular
from .dtypes import bits_of, onnx_dtype_name
from .onnx_tensors import all_tensors

_FILE_BYTES_MAX = 2**31 - 1
_RANK_MAX = 64
_EXPORT, _FETCH, _TRUST = "export the model again", "fetch or export the model again", "do not trust this model"
_TYPED_DATA: dict[int, str] = {
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.COMPLEX64), "float_data"),
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.COMPLEX128), "double_data"),
    **dict.fromkeys((TensorProto.UINT32, TensorProto.UINT64), "uint64_data"),
    TensorProto.INT64: "int64_data",
    TensorProto.STRING: "string_data",
}
"""Data type -> the field that holds its elements where there are no raw bytes; ``int32_data`` for all others."""


@dataclass(frozen=True)
class ExternalSpan:
    """A part of a file, which was checked to be there."""

    file: Path
    """Without links."""
    offset: int
    size_bytes: int


def read_model(path: Path) -> onnx.ModelProto:
    """Return a parsed ONNX file; its tensors are not checked, and external data is not read.

    Raises
    ------
    InvalidModel
        For a file that is missing, empty, over 2 GiB, no regular file, truncated, or not ONNX.
    """
    try:
        with open_regular(path) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes > _FILE_BYTES_MAX:
                raise InvalidModel(
                    f"{path.name} is over 2 GiB, more than one ONNX file can hold",
                    remedy="save its weights as external data",
                )
            content = file.read(_FILE_BYTES_MAX)
        if not content:
            raise InvalidModel(f"{path.name} is empty", remedy="fetch or export it again")
        return onnx.ModelProto.FromString(content)
    except FileNotFoundError:
        raise InvalidModel(f"no model at {path}", remedy="check the path") from None
    except OSError as error:
        raise InvalidModel(
            f"{path} cannot be read: {error.strerror}", remedy="give the .onnx file itself, and check its permissions"
        ) from error
    except DecodeError:
        raise InvalidModel(
            f"{path.name} is not an ONNX model, or is cut short", remedy="fetch or export it again"
        ) from None


def model_files(path: Path) -> list[Path]:
    """Return the files that a model names: its own, and those of external data; whether they exist is not checked.

    Of a file that cannot be read as a model, only itself.
    """
    files = {path: None}
    try:
        proto = read_model(path)
    except InvalidModel:
        return list(files)
    for tensor in all_tensors(proto):
        for entry in tensor.external_data:
            if entry.key == "location" and isinstance(entry.value, str) and "\0" not in entry.value:
                files[path.parent / entry.value] = None
                files[path.resolve().parent / entry.value] = None
    return list(files)


def check_tensors(proto: onnx.ModelProto, path: Path) -> Iterator[tuple[TensorProto, ExternalSpan]]:
    """Check all tensors of a model, and yield those with external data.

    Parameters
    ----------
    path : Path
        The model's file. Where it is a link, as in download caches, data beside its target counts as beside it, too.

    Raises
    ------
    InvalidModel
        For a tensor whose size is not that of its shape, or whose external data is missing, too short or outside the
        model's folder.
    """
    files: dict[str, Path] = {}
    for tensor in all_tensors(proto):
        where = f"{path.name}: tensor {tensor.name!r}"
        size_bytes = checked_size(tensor, where)
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if 0 in tensor.dims:  # nothing to read: writers leave out keys, or point behind the end of the file
            _resolved(location, path, where)
            _make_empty(tensor)
            continue
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", size_bytes))
        except ValueError:
            raise InvalidModel(f"{where} has an external offset that is not a number", remedy=_EXPORT) from None
        if location not in files:
            files[location] = _external_file(location, path, where)
        file = files[location]
        available = file.stat().st_size
        if offset < 0 or length != size_bytes or offset + length > available:
            raise InvalidModel(
                f"{where} needs {size_bytes} bytes at {offset} of {file.name}, which has {available}",
                remedy="fetch the model and its data again",
            )
        yield tensor, ExternalSpan(file, offset, length)


def check_model_file(path: Path) -> None:
    """Check all tensors of a model that an engine reads by its name.

    Raises
    ------
    InvalidModel
        As `read_model` and `check_tensors`.
    """
    for _ in check_tensors(read_model(path), path):
        pass


def point_to(tensor: TensorProto, location: str, offset: int, size_bytes: int) -> None:
    """Make a tensor refer to a part of an external file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", size_bytes)):
        tensor.external_data.add(key=key, value=str(value))


def gather_external_data(proto: onnx.ModelProto, path: Path) -> Path | None:
    """Check all tensors, and give their data locations below one folder; return that, or None without external data.

    Raises
    ------
    InvalidModel
        As `check_tensors`.
    """
    external = list(check_tensors(proto, path))
    if not external:
        return None
    folder = os.path.commonpath({span.file.parent for _, span in external})
    for tensor, span in external:
        point_to(tensor, os.path.relpath(span.file, folder), span.offset, span.size_bytes)
    return Path(folder)


def load_external_data(proto: onnx.ModelProto, path: Path) -> None:
    """Check all tensors, and read external data into the model.

    Raises
    ------
    InvalidModel
        As `check_tensors`, or when the data does not fit into one ONNX file.
    """
    external = list(check_tensors(proto, path))
    if sum(span.size_bytes for _, span in external) > _FILE_BYTES_MAX:
        raise UnsupportedModel(f"{path.name} has more than 2 GiB of weights", remedy="use an engine that maps them")
    for tensor, span in external:
        with open_regular(span.file) as file:
            file.seek(span.offset)
            tensor.raw_data = file.read(span.size_bytes)
        tensor.ClearField("data_location")
        del tensor.external_data[:]


def checked_size(tensor: TensorProto, where: str) -> int:
    """Return the bytes that a tensor's shape requires, after a check of those that are inside the model.

    Parameters
    ----------
    where : str
        What the error calls the tensor.

    Raises
    ------
    InvalidModel
        When it has another size, a negative or no dimension, or an unknown dtype.
    """
    name = onnx_dtype_name(tensor.data_type)
    if tensor.data_type == TensorProto.UNDEFINED:
        raise InvalidModel(f"{where} has no dtype", remedy=_EXPORT)
    if name is None:
        raise InvalidModel(f"{where} has the unknown dtype {tensor.data_type}", remedy="upgrade onnx")
    if len(tensor.dims) > _RANK_MAX:
        raise InvalidModel(f"{where} has {len(tensor.dims)} dimensions, more than {_RANK_MAX}", remedy=_EXPORT)
    count = 1
    for dim in tensor.dims:
        if dim < 0:
            raise InvalidModel(f"{where} has the dimension {dim}", remedy=_EXPORT)
        count *= dim
    is_text = tensor.data_type == TensorProto.STRING
    size_bytes = 0 if is_text else -(-count * bits_of(name) // 8)
    if tensor.data_location == TensorProto.EXTERNAL:
        if is_text and count:
            raise InvalidModel(f"{where} has external text, which ONNX does not have", remedy=_EXPORT)
    elif tensor.HasField("raw_data") and not is_text:
        if len(tensor.raw_data) != size_bytes:
            raise InvalidModel(
                f"{where} holds {len(tensor.raw_data)} bytes where its shape needs {size_bytes}", remedy=_FETCH
            )
    else:
        _check_elements(tensor, count, size_bytes, where)
    return size_bytes


def _check_elements(tensor: TensorProto, count: int, size_bytes: int, where: str) -> None:
    """Check the number of elements in the field of a tensor's data type."""
    elements = len(getattr(tensor, _TYPED_DATA.get(int(tensor.data_type), "int32_data")))
    expected = {count}
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        expected = {2 * count}
    elif size_bytes < count:  # several elements in each byte: whether each has a number of its own is not agreed
        expected.add(size_bytes)
    if elements not in expected:
        raise InvalidModel(f"{where} holds {elements} elements where its shape needs {count}", remedy=_FETCH)


def _make_empty(tensor: TensorProto) -> None:
    """Give a tensor without elements its data inside the model."""
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    if tensor.data_type != TensorProto.STRING:
        tensor.raw_data = b""


def _external_file(location: str, path: Path, where: str) -> Path:
    """Return the file of an external location, which must be a regular file."""
    file = _resolved(location, path, where)
    try:
        check_regular(file)
        return file
    except OSError as error:
        missing = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise InvalidModel(
            f"{where} needs the file {location[:200]!r}, which {missing}", remedy=f"put it beside {path.name}"
        ) from None


def _resolved(location: str, path: Path, where: str) -> Path:
    """Return the path of an external location, which must lie in the model's own folder or below it."""
    # Download caches store a model and its data as links into one folder: the folder of a link's target counts, too.
    folders = {path.parent.resolve(), path.resolve().parent}
    if not isinstance(location, str):  # protobuf returns text that is no UTF-8 as bytes
        raise InvalidModel(f"{where} names no file with {location!r:.200}", remedy=_TRUST)
    relative = Path(location.replace("\\", "/"))
    try:
        file = (path.parent / relative).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name; a loop of links
        raise InvalidModel(f"{where} names no file with {location[:200]!r}: {error}", remedy=_TRUST) from None
    inside = location and not relative.is_absolute() and ".." not in relative.parts
    if not inside or not any(file.is_relative_to(folder) for folder in folders):
        raise InvalidModel(f"{where} points outside the model's folder, at {location[:200]!r}", remedy=_TRUST)
    return file
