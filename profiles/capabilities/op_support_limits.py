"""What a device takes without any model at hand: which operators, in which dtypes, of which rank, found by trying.

ONNX's own test cases give a sound small model for each operator. Each is compiled on the device, then again with its
floats turned into every other dtype that the operator's specification allows. Nothing here is a copied table: what is
listed was compiled. The answers are kept on disk until the engine changes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from trisect.runtime.device import Device
from trisect.runtime.errors import EngineMissing
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.tensors.dtypes import onnx_dtype_name

from ..stored.profile_store import default_path
from .compile_verdicts import Capabilities, CompileProbe

MAX_RANK = 8
"""No higher rank is tried; a device that takes it is not restricted."""
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_INTEGERS = (
    *(TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16),
    *(TensorProto.INT32, TensorProto.UINT32, TensorProto.INT64, TensorProto.UINT64, TensorProto.BOOL),
)
_SMALLEST_MODELS = 6
_COMMON_OPSET, _COMMON_IR = 21, 10
_VERSION = "limits 1"


@dataclass(frozen=True)
class OperatorLimits:
    """One operator on one device."""

    dtypes: tuple[str, ...]
    """numpy's names of the dtypes of its main tensor that compile."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Dtype -> why not."""


@dataclass(frozen=True)
class DeviceLimits:
    """All that was found out about one device."""

    device: str
    operators: Mapping[str, OperatorLimits]
    """Operator (``domain::Name`` outside ONNX's own domain) -> what of it runs; one that never runs has no dtypes."""
    maximum_rank: int | None
    """Highest rank of a tensor; None = not restricted as far as was tried."""
    static_shapes: bool
    """Whether every dimension must be a number before compiling."""
    quantised: tuple[str, ...]
    """Integer dtypes that it dequantises."""

    @property
    def data_types(self) -> tuple[str, ...]:
        """Dtypes in which any operator runs."""
        return tuple(sorted({dtype for limits in self.operators.values() for dtype in limits.dtypes}))


def cached_limits(device: Device, capabilities: Capabilities | None = None) -> DeviceLimits | None:
    """What was found out earlier, without trying anything; None where nobody has tried."""
    capabilities = capabilities or Capabilities(_path())
    found = {key: reason for key, reason in capabilities.verdicts(device).items() if key.startswith(_VERSION)}
    return _gathered(device, found) if f"{_VERSION} done" in found else None


def probe_limits(
    device: Device, capabilities: Capabilities | None = None, progress: Progress = no_progress
) -> DeviceLimits:
    """Find out what a device takes, from earlier answers where there are some.

    Parameters
    ----------
    device : Device
    capabilities : Capabilities, optional
        Where answers are kept; the user's own when left out.
    progress : callable, optional
        Called with the trials done, all trials, and the operator at hand; the first time takes seconds to minutes.

    Raises
    ------
    EngineMissing
        For a device that nobody can ask: its engine is not here, or it is of a published machine.
    """
    capabilities = capabilities or Capabilities(_path())
    earlier = cached_limits(device, capabilities)
    if earlier is not None:
        return earlier
    trials = list(_trials())
    try:
        for done, trial in enumerate(trials):
            if done % 20 == 0:
                progress(done, len(trials), f"{device.id}: {trial.key.removeprefix(_VERSION).strip()}")
            capabilities.supports(trial, device)
        capabilities.record(CompileProbe(f"{_VERSION} done", bytes), device)
    except EngineMissing as error:
        raise EngineMissing(f"nobody here can ask {device.id} what it takes", remedy=error.remedy) from error
    finally:
        capabilities.save()  # an interrupted probing goes on where it was
    progress(len(trials), len(trials), device.id)
    found = cached_limits(device, capabilities)
    assert found is not None
    return found


def _path() -> Path:
    return default_path().parent / "limits.json"


def _gathered(device: Device, found: Mapping[str, str]) -> DeviceLimits:
    accepted: dict[str, list[str]] = {}
    refused: dict[str, dict[str, str]] = {}
    ranks: list[int] = []
    is_static = device.limits.static_shapes
    for key, reason in found.items():
        what, _, rest = key.removeprefix(_VERSION).strip().partition(" ")
        if what == "rank" and not reason:
            ranks.append(int(rest))
        elif what == "symbolic":
            is_static = is_static or bool(reason)
        elif what == "operator":
            name, _, dtype = rest.partition(" ")
            accepted.setdefault(name, [])
            if reason:
                refused.setdefault(name, {})[dtype] = reason
            else:
                accepted[name].append(dtype)
    highest = max(ranks, default=0)
    limits = {name: OperatorLimits(tuple(sorted(accepted[name])), refused.get(name, {})) for name in sorted(accepted)}
    dequantised = limits.get("DequantizeLinear", OperatorLimits(())).dtypes
    return DeviceLimits(device.id, limits, None if highest >= MAX_RANK else highest, is_static, dequantised)


def _trials() -> Iterator[CompileProbe]:
    for rank in range(1, MAX_RANK + 1):
        yield CompileProbe(f"{_VERSION} rank {rank}", partial(_negation, (*[1] * (rank - 1), 2)))
    yield CompileProbe(f"{_VERSION} symbolic", partial(_negation, ("n", 2)))
    for name, models in sorted(_by_operator().items()):
        tried: set[str] = set()
        for model in models:
            for dtype, variant in _variants(model):
                if dtype not in tried:
                    tried.add(dtype)
                    yield CompileProbe(f"{_VERSION} operator {name} {dtype}", variant.SerializeToString)


def _negation(shape: Sequence[int | str]) -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "limits", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def _by_operator() -> dict[str, list[ModelProto]]:
    """The smallest test models of each operator, of an opset in common use where the operator is that old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases compute their expected outputs, at times beyond a dtype's range
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    found: dict[str, list[ModelProto]] = {}
    for case in cases:
        if case.model is None or len(case.model.graph.node) != 1:
            continue
        node = case.model.graph.node[0]
        name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        found.setdefault(name, []).append(_as_in_use(case.model, case.data_sets[0][0] if case.data_sets else ()))
    return {name: sorted(models, key=_plainness)[:_SMALLEST_MODELS] for name, models in found.items()}


def _plainness(model: ModelProto) -> tuple[bool, bool, int]:
    return model.opset_import[0].version > _COMMON_OPSET, _main_dtype(model) != TensorProto.FLOAT, model.ByteSize()


def _as_in_use(model: ModelProto, feeds: Sequence[object]) -> ModelProto:
    """The test's model as an exporter would write it: of a common opset, with axes and shapes as constants."""
    changed = ModelProto()
    changed.CopyFrom(model)
    for value, feed in list(zip(changed.graph.input, feeds, strict=False))[1:]:
        if isinstance(feed, np.ndarray) and feed.dtype in (np.int64, np.int32) and feed.ndim <= 1:
            changed.graph.initializer.append(numpy_helper.from_array(feed, value.name))
            changed.graph.input.remove(value)
    changed.ir_version = _COMMON_IR
    if changed.graph.node[0].domain:
        return changed
    del changed.opset_import[:]
    changed.opset_import.append(helper.make_opsetid("", _COMMON_OPSET))
    try:
        onnx.checker.check_model(changed, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):  # newer than that
        del changed.opset_import[:]
        changed.opset_import.extend(model.opset_import)
    return changed


def _variants(model: ModelProto) -> Iterable[tuple[str, ModelProto]]:
    """The model in its own dtype and, where that is a float, in all others that the specification allows."""
    own = _main_dtype(model)
    if own is None:
        return
    yield _name(own), model
    if own not in _FLOATS:
        return
    for other in (*_FLOATS, *_INTEGERS):
        if other != own:
            variant = ModelProto()
            variant.CopyFrom(model)
            for value in (*variant.graph.input, *variant.graph.output):
                if value.type.tensor_type.elem_type == own:
                    value.type.tensor_type.elem_type = other
            try:
                onnx.checker.check_model(variant, full_check=True)
            except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
                continue
            yield _name(other), variant


def _name(number: int) -> str:
    return onnx_dtype_name(number) or f"dtype {number}"


def _main_dtype(model: ModelProto) -> int | None:
    """Of the first tensor that goes in, or comes out where nothing does."""
    for value in (*model.graph.input, *model.graph.output):
        if value.type.HasField("tensor_type"):
            return int(value.type.tensor_type.elem_type)
    return None
