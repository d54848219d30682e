"""ONNX's own reference implementation: numpy code for every operator and every type, slow but correct.

It runs what no vendor's runtime supports, and decides where two of them disagree. It is used only by name
(``cpu:reference``): it is too slow to be among the devices that a split chooses from.
"""

from __future__ import annotations

import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from ..device import Device
from ..tensors.containers import container_of, pack, unpack
from ..tensors.conversions import ConversionLog
from ..tensors.dtypes import dtype_of
from ..tensors.feed_checks import check_buffers, check_feeds
from ..tensors.tensor_spec import Arrays, TensorSpec
from .base import LoadOptions
from .common.engine_errors import closed_module_error, engine_error
from .common.model_signature import bind_signature, model_label

_DEVICE_ID = "cpu:reference"


class ReferenceEngine:
    """ONNX's reference evaluator."""

    name = "reference"
    package = "onnx"

    def devices(self) -> list[Device]:
        """Return no devices: `named_devices` lists the one that there is."""
        return []

    def named_devices(self) -> list[Device]:
        """Return the CPU, used only where a user names it: too slow to be chosen automatically."""
        return [
            Device(
                id=_DEVICE_ID,
                kind="cpu",
                engine=self.name,
                name="ONNX's reference implementation in numpy",
                reality="software",
                engine_version=onnx.__version__,
                native="ReferenceEvaluator",
            )
        ]

    def load(self, model: Path | bytes, device: Device, options: LoadOptions) -> ReferenceModule:
        """Load an ONNX file, weights and all.

        Raises
        ------
        EngineFailed
            For an unsupported operator, or a file that cannot be read.
        """
        signature = bind_signature(model, device, options.shapes)
        try:
            proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
            evaluator = ReferenceEvaluator(proto)
        except Exception as error:  # protobuf's errors and the evaluator's share no base
            raise engine_error(device, f"cannot load {model_label(model)}", error) from error
        return ReferenceModule(evaluator, device, signature.inputs, signature.outputs)


class ReferenceModule:
    """A model in the reference evaluator; runs are serialised, because its nodes hold state."""

    converts = True

    def __init__(
        self,
        evaluator: ReferenceEvaluator,
        device: Device,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> None:
        self.device = device
        self.inputs = inputs
        self.outputs = outputs
        self._evaluator: ReferenceEvaluator | None = evaluator
        self._dtypes = {spec.name: spec.dtype for spec in inputs}
        self._lock = threading.Lock()

    def run(self, feeds: Arrays, log: ConversionLog | None = None) -> dict[str, np.ndarray]:
        """Compute once; see `Module.run`."""
        checked = check_feeds(self.inputs, feeds, log)
        inputs = {name: unpack(self._dtypes[name], array) for name, array in checked.items()}
        with self._lock:
            if self._evaluator is None:
                raise closed_module_error(self.device)
            try:
                # It warns of overflows and divisions by zero that are part of the model.
                with np.errstate(all="ignore"), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    values = self._evaluator.run([spec.name for spec in self.outputs], inputs)
            except Exception as error:  # any of numpy's and its own
                raise engine_error(self.device, "could not run", error) from error
        return {spec.name: self._value(spec, value, log) for spec, value in zip(self.outputs, values, strict=True)}

    def bind(self, inputs: Arrays, outputs: Arrays) -> ReferenceBinding:
        """Fix buffers; see `Module.bind`. It is no faster than `run`."""
        check_buffers(inputs, self.inputs, outputs, self.outputs)
        return ReferenceBinding(self, inputs, outputs)

    def close(self) -> None:
        """Release the model; a second call does nothing."""
        with self._lock:
            self._evaluator = None

    def _value(self, spec: TensorSpec, value: Any, log: ConversionLog | None) -> np.ndarray:
        container = container_of(spec.dtype)
        if container is not None:
            return pack(spec.dtype, _unwrapped(container[1], value) if container[0] == "optional" else value)
        array = np.asarray(value)
        dtype = dtype_of(spec.dtype)
        # Its kernels return numpy's strings, and sometimes a wider dtype than the operator's.
        if array.dtype == dtype:
            return array
        start_s = time.perf_counter()
        array = array.astype(dtype)
        if log is not None:
            log.record(spec.name, start_s, array.nbytes)
        return array


def _unwrapped(content: str, value: Any) -> Any:
    """Return the content of an Optional: the evaluator wraps it in a list of one element, unless it came from feeds."""
    if not isinstance(value, list):
        return value
    if container_of(content) is None:
        return value[0] if value else None
    is_wrapped = len(value) == 1 and not isinstance(value[0], (np.ndarray, np.generic))
    return value[0] if is_wrapped else value


class ReferenceBinding:
    """Fixed buffers on a reference module."""

    def __init__(self, module: ReferenceModule, inputs: Arrays, outputs: Arrays) -> None:
        self._module = module
        self._inputs = dict(inputs)
        self._bound = dict(outputs)
        self._outputs: dict[str, np.ndarray] = {}

    def run(self) -> None:
        """Compute once; see `Binding.run`."""
        self._outputs = self._module.run(self._inputs)
        for name, array in self._bound.items():
            np.copyto(array, self._outputs[name])

    def output(self, name: str) -> np.ndarray:
        """Return the array of an output; see `Binding.output`."""
        return self._bound[name] if name in self._bound else self._outputs[name]
