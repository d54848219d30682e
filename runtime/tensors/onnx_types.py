"""Converts ONNX types to `TensorSpec`s and back: tensors, and sequences, optionals and maps of them."""

from __future__ import annotations

from onnx import TensorProto, TypeProto, ValueInfoProto

from ..errors import InvalidModel, UnsupportedModel
from .containers import container_of
from .dtypes import onnx_dtype_name, onnx_dtype_number
from .tensor_spec import UNKNOWN_RANK, TensorSpec

_DEPTH_MAX = 4


def declared_spec(value: ValueInfoProto, label: str) -> TensorSpec:
    """Return the description of one of a model's inputs or outputs.

    Parameters
    ----------
    value : onnx.ValueInfoProto
    label : str
        The model's name, for errors.

    Raises
    ------
    UnsupportedModel
        For a sparse tensor, an opaque type, or no type at all.

    Examples
    --------
    >>> from onnx.helper import make_tensor_sequence_value_info
    >>> declared_spec(make_tensor_sequence_value_info("s", TensorProto.FLOAT, None), "m.onnx")
    TensorSpec(name='s', dtype='seq(float32)', shape=('?',), layout='NCHW')
    """
    dtype = _dtype_name(value.type, f"{label}: {value.name!r}")
    if value.type.HasField("sequence_type"):
        return TensorSpec(value.name, dtype, ("?",))
    if not value.type.HasField("tensor_type"):
        return TensorSpec(value.name, dtype, ())
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorSpec(value.name, dtype, UNKNOWN_RANK)
    shape: tuple[int | str, ...] = tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else (dim.dim_param or "?")
        for dim in tensor.shape.dim
    )
    return TensorSpec(value.name, dtype, shape)


def type_of(dtype: str) -> TypeProto:
    """Return the ONNX type of a dtype's name, without a shape.

    Examples
    --------
    >>> type_of("optional(seq(int64))").optional_type.elem_type.sequence_type.elem_type.tensor_type.elem_type
    7
    """
    proto = TypeProto()
    container = container_of(dtype)
    if container is None:
        proto.tensor_type.elem_type = onnx_dtype_number(dtype)
        return proto
    kind, content = container
    if kind == "map":
        key, _, value = content.partition(",")
        proto.map_type.key_type = onnx_dtype_number(key)
        proto.map_type.value_type.CopyFrom(type_of(value))
        if proto.map_type.value_type.HasField("tensor_type"):
            proto.map_type.value_type.tensor_type.shape.SetInParent()  # its values are numbers
    elif kind == "seq":
        proto.sequence_type.elem_type.CopyFrom(type_of(content))
    else:
        proto.optional_type.elem_type.CopyFrom(type_of(content))
    return proto


def _dtype_name(declared: TypeProto, where: str, depth: int = 0) -> str:
    if depth > _DEPTH_MAX:
        raise InvalidModel(f"{where} has a type nested too deeply", remedy="export the model again")
    kind = declared.WhichOneof("value")
    if kind == "sequence_type":
        return f"seq({_dtype_name(declared.sequence_type.elem_type, where, depth + 1)})"
    if kind == "optional_type":
        return f"optional({_dtype_name(declared.optional_type.elem_type, where, depth + 1)})"
    if kind == "map_type":
        key = onnx_dtype_name(declared.map_type.key_type)
        return f"map({key},{_dtype_name(declared.map_type.value_type, where, depth + 1)})"
    if kind != "tensor_type":
        kind_name = (kind or "value without type").removesuffix("_type")
        raise UnsupportedModel(
            f"{where} is a {kind_name}, not a tensor", remedy="trisect supports tensors, sequences, optionals and maps"
        )
    name = onnx_dtype_name(declared.tensor_type.elem_type)
    if name is None:
        number = declared.tensor_type.elem_type
        dtype = TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else str(number)
        raise UnsupportedModel(f"{where} has dtype {dtype}, which cannot cross a model's boundary")
    return name
