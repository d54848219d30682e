"""Runs the whole model on a reference device, with tensors that a split passes from segment to segment as outputs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from ..device import Device
from ..engines import capabilities, load
from ..engines.base import LoadOptions, Module
from ..errors import EngineFailed, UnsupportedModel
from ..plans.plan import Plan
from ..tensors.external_data import gather_external_data, load_external_data, read_model
from ..tensors.onnx_tensors import bodies_of
from ..tensors.onnx_types import type_of
from ..tensors.output_names import name_unread_outputs
from ..tensors.sparse_tensors import make_dense
from ..tensors.tensor_spec import Arrays, TensorSpec

REFERENCES = ("cpu:ort", "cpu:reference")
"""Devices that may run the whole model, the preferred one first."""
RANDOM_OPERATORS = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli".split()
)
"""Operators whose results differ from run to run: only their dtypes and shapes can be compared."""
_TRAINING_MODE = 2
"""Position of the input of Dropout that makes it random."""


@dataclass(frozen=True)
class WholeModel:
    """A model as it was before it was split."""

    proto: onnx.ModelProto
    """Without its external weights."""
    folder: Path | None
    """Where its external weights are; None where it has none."""

    @classmethod
    def read(cls, path: Path, outputs: Sequence[TensorSpec] = ()) -> WholeModel:
        """Read a model file, without what engines refuse or are misled by.

        Parameters
        ----------
        outputs : sequence of TensorSpec, optional
            What the plan knows of its outputs: their types may be missing in the file, or wrong.

        Raises
        ------
        InvalidModel, UnsupportedModel
            When it, or its external data, cannot be read.
        """
        proto = read_model(path)
        folder = gather_external_data(proto, path)
        name_unread_outputs(proto)
        make_dense(proto, path.name, folder)
        del proto.graph.value_info[:]  # engines compute by shapes that are declared there, true or not
        dtypes = {spec.name: spec.dtype for spec in outputs}
        for value in proto.graph.output:
            if value.name in dtypes:
                value.type.CopyFrom(type_of(dtypes[value.name]))
        return cls(proto, folder)


def boundary_of(plan: Plan, model: WholeModel) -> list[TensorSpec]:
    """Return the tensors that segments pass to each other and that the whole model has too."""
    produced = {name for node in model.proto.graph.node for name in node.output}
    read = {spec.name for segment in plan.segments for spec in segment.inputs}
    outputs = {spec.name for spec in plan.outputs}
    return [
        spec
        for segment in plan.segments
        for spec in segment.outputs
        if spec.name in read and spec.name not in outputs and spec.name in produced
    ]


def run_whole(
    model: WholeModel, devices: Sequence[Device], boundary: Sequence[TensorSpec], feeds: Arrays
) -> tuple[Device, dict[str, np.ndarray]]:
    """Return the first device that can run the model, and its outputs with the tensors of a boundary.

    Raises
    ------
    EngineFailed, UnsupportedModel
        Where none can run it.
    """
    for device in devices:
        try:
            with closing(load_whole(model, device, boundary)) as module:
                return device, module.run(feeds)
        except (EngineFailed, UnsupportedModel):
            if device is devices[-1]:
                raise
    raise AssertionError("no device to run the whole model on")


def load_whole(
    model: WholeModel, device: Device, boundary: Sequence[TensorSpec] = (), threads: int | None = None
) -> Module:
    """Load the model on a device, with the tensors of a boundary as outputs too.

    Raises
    ------
    EngineFailed, UnsupportedModel
        Where the device cannot run it.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for spec in boundary:
        proto.graph.output.append(onnx.ValueInfoProto(name=spec.name, type=type_of(spec.dtype)))
    options = LoadOptions(threads=threads)
    if model.folder is not None and capabilities(device).external_data_folder:
        options = replace(options, external_data_folder=os.fspath(model.folder))
    elif model.folder is not None:
        load_external_data(proto, model.folder / "model")
    return load(proto.SerializeToString(), device, options)


def random_operator(model: onnx.ModelProto) -> str | None:
    """Return an operator of the model whose result differs from run to run; None where there is none."""
    never = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.BOOL and not any(t.raw_data)}
    never -= {t.name for t in model.graph.initializer if any(t.int32_data)}
    for node in all_nodes(model):
        if node.op_type in RANDOM_OPERATORS:
            return node.op_type
        if node.op_type == "Dropout" and any(name and name not in never for name in node.input[_TRAINING_MODE:]):
            return node.op_type
    return None


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield all nodes of a model, those in control flow and functions too."""
    waiting = [iter(model.graph.node), *(iter(function.node) for function in model.functions)]
    while waiting:
        node = next(waiting[-1], None)
        if node is None:
            waiting.pop()
            continue
        yield node
        waiting += [iter(body.node) for body in bodies_of(node)]
