"""Makes the sparse constants of an ONNX model dense, as engines do: few of them read sparse ones."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from ..errors import InvalidModel, UnsupportedModel
from .onnx_tensors import bodies_of

DENSE_BYTES_MAX = 1 << 30
"""Memory for all sparse constants of a model together, once they are dense."""


def make_dense(model: onnx.ModelProto, label: str, folder: Path | None = None) -> None:
    """Replace sparse initialisers, and the sparse values of `Constant` nodes, by dense ones, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        The external data of its tensors was checked.
    label : str
        The model's name, for errors.
    folder : Path, optional
        Folder of the external data; where None, it is named by absolute paths.

    Raises
    ------
    InvalidModel
        For indices that do not fit the shape.
    UnsupportedModel
        For constants that would take too much memory.
    """
    budget_bytes = DENSE_BYTES_MAX
    for holder in _holders(model):
        if isinstance(holder, onnx.GraphProto):
            for sparse in holder.sparse_initializer:
                dense = _dense(sparse, label, folder, budget_bytes)
                budget_bytes -= len(dense.raw_data)
                holder.initializer.append(dense)
            del holder.sparse_initializer[:]
        for node in holder.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "sparse_value":
                    dense = _dense(attribute.sparse_tensor, label, folder, budget_bytes)
                    budget_bytes -= len(dense.raw_data)
                    attribute.Clear()
                    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
                    attribute.t.CopyFrom(dense)


def _holders(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """Yield everything that holds nodes: the graph, functions, and the bodies of control flow."""
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while pending:
        holder = pending.pop()
        yield holder
        for node in holder.node:
            pending += bodies_of(node)


def _dense(sparse: onnx.SparseTensorProto, label: str, folder: Path | None, budget_bytes: int) -> onnx.TensorProto:
    where = f"{label}: sparse tensor {sparse.values.name!r}"
    dims = tuple(sparse.dims)
    if any(dim < 0 for dim in dims):
        raise InvalidModel(f"{where} has the shape {list(dims)}", remedy="export the model again")
    if sparse.values.data_type == onnx.TensorProto.STRING:
        raise UnsupportedModel(f"{where} holds text", remedy="make it dense")
    values = numpy_helper.to_array(_loaded(sparse.values, folder)).reshape(-1)
    count = prod(dims)
    size_bytes = count * values.itemsize
    if size_bytes > budget_bytes:
        raise UnsupportedModel(
            f"{where} takes {size_bytes} bytes when it is dense, and {DENSE_BYTES_MAX} are allowed for all together",
            remedy="export the model without sparse tensors, and with external data",
        )
    indices = numpy_helper.to_array(_loaded(sparse.indices, folder))
    if indices.dtype.kind not in "iu" or indices.shape not in ((len(values),), (len(values), len(dims))):
        raise InvalidModel(
            f"{where} has {indices.dtype} indices of shape {list(indices.shape)} for {len(values)} values "
            f"in {len(dims)} dimensions",
            remedy="export the model again",
        )
    limits = np.array([count] if indices.ndim == 1 else dims)
    if ((indices < 0) | (indices >= limits)).any():
        raise InvalidModel(f"{where} has an index outside its shape {list(dims)}", remedy="export the model again")
    dense = np.zeros(dims, values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return numpy_helper.from_array(dense, sparse.values.name)


def _loaded(tensor: onnx.TensorProto, folder: Path | None) -> onnx.TensorProto:
    """Return a tensor with its data inside."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return tensor
    entries = {entry.key: entry.value for entry in tensor.external_data}
    loaded = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    with Path(folder or "", entries["location"]).open("rb") as file:
        file.seek(int(entries["offset"]))
        loaded.raw_data = file.read(int(entries["length"]))
    return loaded
