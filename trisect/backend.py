"""ONNX's own backend interface over split models: what ``onnx.backend.test`` is run against.

A model is cut where it hurts most, each node a segment of its own with the engines taking turns, and goes the whole way
that any split goes: cut, written as a plan folder, loaded in a `Session`, run by an executor. So a conformance suite
written for whole models tells whether splitting changes an answer.

    import trisect.backend as backend
    outputs = backend.prepare(onnx.load("model.onnx")).run([x])
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper
from onnx.backend.base import Backend as _Interface
from onnx.backend.base import BackendRep as _Prepared

from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.segments.alternating_plan import alternating_plan
from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import EngineMissing, InvalidInput, TrisectError, UnknownDevice
from trisect.runtime.plans.plan import Plan
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.containers import unpack
from trisect.runtime.tensors.dtypes import onnx_dtype_number
from trisect.runtime.tensors.onnx_types import spec_of
from trisect.runtime.tensors.tensor_spec import UNKNOWN_RANK, TensorSpec

_TURNS = {"CPU": "cpu:ort,cpu:openvino", "CUDA": "gpu:cuda,cpu:ort"}
"""ONNX's name of a kind of device -> those that take turns."""
_LAST_RESORT = "cpu:reference"


class PreparedModel(_Prepared):
    """A model cut into its nodes, ready to run; see `Backend.prepare`."""

    def __init__(self, model: ModelProto, devices: Sequence[Device], threads: int | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="trisect-backend-")
        self._path = Path(self._folder.name) / "model.onnx"
        onnx.save(model, self._path)
        self._devices = devices
        self._options = LoadOptions(threads=threads)
        given = {tensor.name for tensor in model.graph.initializer}
        self.inputs = tuple(spec_of(v, "the model") for v in model.graph.input if v.name not in given)
        self.plan: Plan | None = None
        """How the model is cut; None until the sizes of its symbolic dimensions are known from a first input."""
        self._session: Session | None = None
        self._sizes: dict[str, int] = {}
        self._close: weakref.finalize[..., Any] = weakref.finalize(self, self._folder.cleanup)
        if all(isinstance(dim, int) for spec in self.inputs for dim in _dims(spec)):
            self._open({})

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Compute once.

        Parameters
        ----------
        inputs : sequence or mapping of str to array
            In the order of the model's inputs, or by name; a list for a sequence, None for an empty optional.

        Returns
        -------
        tuple
            The model's outputs in its order.

        Raises
        ------
        InvalidInput
            For inputs that do not fit.
        EngineFailed
            Naming segment, node and device.
        """
        feeds = _named(self.inputs, inputs)
        sizes = _sizes(self.inputs, feeds)
        if self._session is None or sizes != self._sizes:
            self._open(sizes)
        assert self._session is not None
        outputs = self._session.run(feeds)
        return tuple(unpack(spec.dtype, outputs[spec.name]) for spec in self._session.plan.outputs)

    def close(self) -> None:
        """Give memory and disk back; done when the object goes too."""
        self._close()

    def _open(self, sizes: dict[str, int]) -> None:
        self._close.detach()
        if self._session is not None:
            self._session.close()
        folder = Path(self._folder.name) / "plan"
        self.plan = alternating_plan(
            self._path,
            self._devices,
            engines.find_devices(_LAST_RESORT)[0],
            sizes,
            folder,
            capabilities=_capabilities(),
        )
        self._session = Session(self.plan, options=self._options)
        self._sizes = sizes
        self._close = weakref.finalize(self, _close, self._session, self._folder)


class Backend(_Interface):
    """The `onnx.backend.base.Backend` that runs models split into their nodes."""

    @classmethod
    def prepare(
        cls, model: ModelProto, device: str = "CPU", *, threads: int | None = None, **kwargs: Any
    ) -> PreparedModel:
        """Cut a model into its nodes and load them on devices that take turns.

        Parameters
        ----------
        model : onnx.ModelProto
        device : str
            ``"CPU"``: ONNX Runtime and OpenVINO; ``"CUDA"``: the GPU and ONNX Runtime. What none of them runs is left
            to ONNX's reference evaluator.
        threads : int, optional
            Computing threads of each engine.

        Raises
        ------
        TrisectError
            For a model that cannot be read or cut, or a device that is not here.
        """
        return PreparedModel(model, _devices(device), threads)

    @classmethod
    def run_model(cls, model: ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Prepare a model and run it once; see `prepare` and `PreparedModel.run`."""
        prepared = cls.prepare(model, device, **kwargs)
        try:
            return prepared.run(inputs)
        finally:
            prepared.close()

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Run one node on arrays.

        Parameters
        ----------
        node : onnx.NodeProto
        inputs : sequence or mapping of str to array
        device : str
        outputs_info : sequence of (dtype, shape), optional
            What it gives; inferred when left out.
        opset_version : int, optional
            The newest when left out.

        Examples
        --------
        >>> node = helper.make_node("Neg", ["x"], ["y"])
        >>> Backend.run_node(node, [np.array([1.0, -2.0], np.float32)])
        (array([-1.,  2.], dtype=float32),)
        """
        version = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        names = list(dict.fromkeys(name for name in node.input if name))
        arrays = inputs if isinstance(inputs, Mapping) else dict(zip(names, _listed(inputs), strict=False))
        ends = [_info(name, np.asarray(arrays[name])) for name in names if name in arrays]
        made = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        if outputs_info is not None:
            made = [
                helper.make_tensor_value_info(value.name, onnx_dtype_number(np.dtype(dtype).name), shape)
                for value, (dtype, shape) in zip(made, outputs_info, strict=False)
            ]
        graph = helper.make_graph([node], node.op_type, ends, made)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, version)])
        if outputs_info is None:
            model = onnx.shape_inference.infer_shapes(model)
        return cls.run_model(model, {name: arrays[name] for name in names if name in arrays}, device, **kwargs)

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether a model can be read here, and its device is here."""
        try:
            with tempfile.TemporaryDirectory(prefix="trisect-backend-") as folder:
                path = Path(folder) / "model.onnx"
                onnx.save(model, path)
                sizes = {
                    f"{value.name}.{axis}": 1
                    for value in model.graph.input
                    for axis, dim in enumerate(value.type.tensor_type.shape.dim)
                    if not dim.HasField("dim_value")
                }
                Graph.read(path, sizes)
        except TrisectError:
            return False
        return cls.supports_device(device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether this machine has the kind of device: ``CPU`` always, ``CUDA`` where its engine is installed."""
        try:
            _devices(device)
        except (UnknownDevice, EngineMissing):
            return False
        return True


prepare = Backend.prepare
run_model = Backend.run_model
run_node = Backend.run_node
is_compatible = Backend.is_compatible
supports_device = Backend.supports_device


@cache
def _capabilities() -> Capabilities:
    """What engines said of nodes, shared by all models of this process and, on disk, with later ones."""
    return Capabilities()


def _devices(device: str) -> list[Device]:
    kind = device.partition(":")[0].upper()
    if kind not in _TURNS:
        raise UnknownDevice(f"ONNX knows no device {device!r}", remedy=f"use one of {', '.join(_TURNS)}")
    return engines.find_devices(_TURNS[kind])


def _listed(inputs: Any) -> list[Any]:
    return list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]


def _named(specs: Sequence[TensorSpec], inputs: Any) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        return dict(inputs)
    values = _listed(inputs)
    if len(values) > len(specs):
        raise InvalidInput(f"the model has {len(specs)} inputs, {len(values)} are given")
    return {spec.name: value for spec, value in zip(specs, values, strict=False)}


def _dims(spec: TensorSpec) -> tuple[int | str, ...]:
    """Dimensions that a plan must know beforehand: none of a list, nor of a tensor without a known rank."""
    return () if spec.shape == UNKNOWN_RANK or "(" in spec.dtype else spec.shape


def _sizes(specs: Sequence[TensorSpec], feeds: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of the dimensions that the model leaves open, as ``input.axis``."""
    sizes = {}
    for spec in specs:
        shape = np.shape(feeds[spec.name]) if spec.name in feeds and "(" not in spec.dtype else ()
        for axis, (dim, size) in enumerate(zip(_dims(spec), shape, strict=False)):
            if isinstance(dim, str):
                sizes[f"{spec.name}.{axis}"] = int(size)
    return sizes


def _info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    number = TensorProto.STRING if array.dtype.kind in "OUS" else onnx_dtype_number(array.dtype.name)
    return helper.make_tensor_value_info(name, number, array.shape)


def _close(session: Session, folder: tempfile.TemporaryDirectory[str]) -> None:
    session.close()
    folder.cleanup()
