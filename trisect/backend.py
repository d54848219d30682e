"""ONNX's backend interface over split models, on which the conformance suite ``onnx.backend.test`` runs.

Every node is a segment of its own, on alternating engines, and passes through all steps of a split: it is cut, written
to a plan folder, loaded in a `Session` and run by an executor. A conformance suite for unsplit models thus shows
whether splitting changes an answer.

    import trisect.backend as backend
    outputs = backend.prepare(onnx.load("model.onnx")).run([x])
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper
from onnx.backend.base import Backend as OnnxBackend
from onnx.backend.base import BackendRep as OnnxBackendRep

from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.segments.alternating_plan import alternating_plan
from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import EngineMissing, InvalidInput, TrisectError, UnknownDevice
from trisect.runtime.plans.plan import Plan
from trisect.runtime.scratch_folder import ScratchFolder
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.containers import unpack
from trisect.runtime.tensors.dtypes import onnx_dtype_number
from trisect.runtime.tensors.onnx_types import declared_spec
from trisect.runtime.tensors.tensor_spec import UNKNOWN_RANK, TensorSpec

_ALTERNATING = {"CPU": "cpu:ort,cpu:openvino", "CUDA": "gpu:cuda,cpu:ort"}
"""ONNX's device type -> the devices that run the nodes alternately."""
_FALLBACK = "cpu:reference"


class PreparedModel(OnnxBackendRep):
    """A model split into its nodes, ready to run; see `Backend.prepare`."""

    def __init__(self, model: ModelProto, devices: Sequence[Device], threads: int | None) -> None:
        self._folder = ScratchFolder("backend")
        self._path = self._folder.path / "model.onnx"
        onnx.save(model, self._path)
        self._devices = devices
        self._options = LoadOptions(threads=threads)
        initializers = {tensor.name for tensor in model.graph.initializer}
        self.inputs = tuple(declared_spec(v, "the model") for v in model.graph.input if v.name not in initializers)
        self.plan: Plan | None = None
        """The plan; None until the first inputs set the sizes of the symbolic dimensions."""
        self._session: Session | None = None
        self._sizes: dict[str, int] = {}
        self._close: weakref.finalize[..., Any] = weakref.finalize(self, self._folder.close)
        if all(isinstance(dim, int) for spec in self.inputs for dim in _dims(spec)):
            self._open({})

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Run the model once.

        Parameters
        ----------
        inputs : sequence or mapping of str to array
            By position or by name; a list for a sequence, None for an empty optional.

        Returns
        -------
        tuple
            The model's outputs, in order.

        Raises
        ------
        InvalidInput
            For inputs that do not match the model's.
        EngineFailed
            Names the segment, node and device.
        """
        feeds = _by_name(self.inputs, inputs)
        sizes = symbolic_sizes(self.inputs, feeds)
        if self._session is None or sizes != self._sizes:
            self._open(sizes)
        assert self._session is not None
        outputs = self._session.run(feeds)
        return tuple(unpack(spec.dtype, outputs[spec.name]) for spec in self._session.plan.outputs)

    def close(self) -> None:
        """Free memory and disk space; also done when the object is garbage-collected."""
        self._close()

    def _open(self, sizes: dict[str, int]) -> None:
        self._close.detach()
        if self._session is not None:
            self._session.close()
        folder = self._folder.path / "plan"
        self.plan = alternating_plan(
            self._path,
            self._devices,
            engines.find_devices(_FALLBACK)[0],
            sizes,
            folder,
            capabilities=_capabilities(),
        )
        self._session = Session(self.plan, options=self._options)
        self._sizes = sizes
        self._close = weakref.finalize(self, _close, self._session, self._folder)


class Backend(OnnxBackend):
    """An `onnx.backend.base.Backend` that runs models split into their nodes."""

    @classmethod
    def prepare(
        cls, model: ModelProto, device: str = "CPU", *, threads: int | None = None, **kwargs: Any
    ) -> PreparedModel:
        """Split a model into its nodes, and load them on alternating devices.

        Parameters
        ----------
        model : onnx.ModelProto
        device : str
            ``"CPU"``: ONNX Runtime and OpenVINO; ``"CUDA"``: the GPU and ONNX Runtime. Nodes that neither supports run
            on ONNX's reference evaluator.
        threads : int, optional
            Number of compute threads of each engine.

        Raises
        ------
        TrisectError
            For a model that cannot be read or split, or a device that is not available.
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
        """Run one node.

        Parameters
        ----------
        node : onnx.NodeProto
        inputs : sequence or mapping of str to array
        device : str
        outputs_info : sequence of (dtype, shape), optional
            Types of the outputs; default: inferred.
        opset_version : int, optional
            Default: the newest.

        Examples
        --------
        >>> node = helper.make_node("Neg", ["x"], ["y"])
        >>> Backend.run_node(node, [np.array([1.0, -2.0], np.float32)])
        (array([-1.,  2.], dtype=float32),)
        """
        version = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        names = list(dict.fromkeys(name for name in node.input if name))
        arrays = inputs if isinstance(inputs, Mapping) else dict(zip(names, _as_list(inputs), strict=False))
        graph_inputs = [_info(name, np.asarray(arrays[name])) for name in names if name in arrays]
        graph_outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        if outputs_info is not None:
            graph_outputs = [
                helper.make_tensor_value_info(value.name, onnx_dtype_number(np.dtype(dtype).name), shape)
                for value, (dtype, shape) in zip(graph_outputs, outputs_info, strict=False)
            ]
        graph = helper.make_graph([node], node.op_type, graph_inputs, graph_outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, version)])
        if outputs_info is None:
            model = onnx.shape_inference.infer_shapes(model)
        return cls.run_model(model, {name: arrays[name] for name in names if name in arrays}, device, **kwargs)

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Return whether a model can be read and its device is available."""
        try:
            with ScratchFolder("backend") as folder:
                path = folder / "model.onnx"
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
        """Return whether a device type is available: ``CPU`` always, ``CUDA`` where its engine is installed."""
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
    """Return the cache of which engines support which nodes, shared by all models of this process and kept on disk."""
    return Capabilities()


def _devices(device: str) -> list[Device]:
    kind = device.partition(":")[0].upper()
    if kind not in _ALTERNATING:
        raise UnknownDevice(f"unknown ONNX device {device!r}", remedy=f"expected one of {', '.join(_ALTERNATING)}")
    return engines.find_devices(_ALTERNATING[kind])


def _as_list(inputs: Any) -> list[Any]:
    return list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]


def _by_name(specs: Sequence[TensorSpec], inputs: Any) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        return dict(inputs)
    values = _as_list(inputs)
    if len(values) > len(specs):
        raise InvalidInput(f"expected at most {len(specs)} inputs, got {len(values)}")
    return {spec.name: value for spec, value in zip(specs, values, strict=False)}


def _dims(spec: TensorSpec) -> tuple[int | str, ...]:
    """Return the dimensions that a plan must know: none for a sequence, or a tensor of unknown rank."""
    return () if spec.shape == UNKNOWN_RANK or "(" in spec.dtype else spec.shape


def symbolic_sizes(specs: Iterable[TensorSpec], feeds: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes that feeds have in the symbolic dimensions of inputs, as ``input.axis``."""
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


def _close(session: Session, folder: ScratchFolder) -> None:
    session.close()
    folder.close()
