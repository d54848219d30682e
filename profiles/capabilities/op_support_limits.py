"""Which operators a device supports, in which dtypes and up to which rank, independent of any model.

ONNX's own test cases provide a small valid model for each operator. Each is compiled on the device, then again with its
floating-point tensors in every other dtype that the operator's specification allows. In the test's own dtype it is also
run, and compared with others (see `value_trials`). Results are cached on disk until the engine changes.
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
from trisect.runtime.scratch_folder import ScratchFolder
from trisect.runtime.tensors.dtypes import onnx_dtype_name

from ..measuring.onnx_builder import build_model
from ..stored.profile_store import default_path
from .compile_verdicts import Capabilities, CompileProbe
from .value_trials import TrialResult, ValueTrial

MAX_RANK = 8
"""Highest rank that is tried; a device that supports it is not restricted."""
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_INTEGERS = (
    *(TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16),
    *(TensorProto.INT32, TensorProto.UINT32, TensorProto.INT64, TensorProto.UINT64, TensorProto.BOOL),
)
_MODELS_MAX = 6
_COMMON_OPSET, _COMMON_IR = 21, 10
_VERSION = "limits 2"
_WIDE_DTYPES = ("int64", "uint64", "uint32", "float64")


@dataclass(frozen=True)
class OperatorLimits:
    """The support for one operator on one device."""

    dtypes: tuple[str, ...]
    """numpy's names of the supported dtypes of its main tensor."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Dtype -> why not."""
    different: Mapping[str, str] = field(default_factory=dict)
    """Dtype -> how results for a small test model differ from those of ONNX's reference and of other engines, for
    numbers beyond 32 bits too. A split compares each of its own nodes: other forms of the operator may be right."""


@dataclass(frozen=True)
class DeviceLimits:
    """The operators, dtypes and shapes that one device supports."""

    device: str
    operators: Mapping[str, OperatorLimits]
    """Operator (``domain::Name`` outside ONNX's own domain) -> its support; an unsupported one has no dtypes."""
    maximum_rank: int | None
    """Highest rank of a tensor; None = not restricted up to `MAX_RANK`."""
    static_shapes: bool
    """Whether all dimensions must be known before compiling."""
    quantised: tuple[str, ...]
    """Integer dtypes that it can dequantise."""

    @property
    def data_types(self) -> tuple[str, ...]:
        """Dtypes that some operator supports."""
        return tuple(sorted({dtype for limits in self.operators.values() for dtype in limits.dtypes}))


def cached_limits(device: Device, capabilities: Capabilities | None = None) -> DeviceLimits | None:
    """Return the cached limits of a device, without compiling; None where it was not probed."""
    capabilities = capabilities or Capabilities(_path())
    verdicts = {key: reason for key, reason in capabilities.verdicts(device).items() if key.startswith(_VERSION)}
    return _collect(device, verdicts, capabilities) if f"{_VERSION} done" in verdicts else None


def probe_limits(
    device: Device, capabilities: Capabilities | None = None, progress: Progress = no_progress
) -> DeviceLimits:
    """Probe which operators a device supports, unless the limits are cached.

    Parameters
    ----------
    device : Device
    capabilities : Capabilities, optional
        Cache of verdicts; the user's own when left out.
    progress : callable, optional
        The first time takes seconds to minutes.

    Raises
    ------
    EngineMissing
        When the device's engine is not installed here, or the device is of a published machine.
    """
    capabilities = capabilities or Capabilities(_path())
    if limits := cached_limits(device, capabilities):
        return limits
    probes = list(_probes())
    try:
        for done, probe in enumerate(probes):
            if done % 20 == 0:
                progress(done, len(probes), f"{device.id}: {probe.compile.key.removeprefix(_VERSION).strip()}")
            if capabilities.supports(probe.compile, device).ok:
                for key, trial in probe.trials.items():
                    if capabilities.known_values(key, device) is None:
                        capabilities.record_values(key, device, _compared(probe, trial, device, capabilities))
        capabilities.record(CompileProbe(f"{_VERSION} done", bytes), device)
    except EngineMissing as error:
        raise EngineMissing(f"{device.id} cannot be probed from here", remedy=error.remedy) from error
    finally:
        capabilities.save()  # so that an interrupted probing can be resumed
    progress(len(probes), len(probes), device.id)
    limits = cached_limits(device, capabilities)
    assert limits is not None
    return limits


def _path() -> Path:
    return default_path().parent / "limits.json"


def _collect(device: Device, verdicts: Mapping[str, str], capabilities: Capabilities) -> DeviceLimits:
    accepted: dict[str, list[str]] = {}
    refused: dict[str, dict[str, str]] = {}
    different: dict[str, dict[str, str]] = {}
    ranks: list[int] = []
    is_static = device.limits.static_shapes
    for key, reason in verdicts.items():
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
                continue
            results = [capabilities.known_values(key, device) for key in _trial_keys(name, dtype)]
            wrong = [r.reason if r is not None and r.outcome in ("different", "failed") else "" for r in results]
            if any(wrong):
                different.setdefault(name, {})[dtype] = next(filter(None, wrong))
            accepted[name].append(dtype)
    highest = max(ranks, default=0)
    limits = {
        name: OperatorLimits(tuple(sorted(accepted[name])), refused.get(name, {}), different.get(name, {}))
        for name in sorted(accepted)
    }
    dequantised = limits.get("DequantizeLinear", OperatorLimits(())).dtypes
    return DeviceLimits(device.id, limits, None if highest >= MAX_RANK else highest, is_static, dequantised)


@dataclass(frozen=True)
class _Probe:
    """What to compile on a device, and then to compare with others."""

    compile: CompileProbe
    trials: Mapping[str, str] = field(default_factory=dict)
    """Key of a value trial -> letters of what the values may be; see `trial_feeds.TrialFeeds`."""


def limit_trials() -> Iterator[tuple[str, bytes, str]]:
    """Yield the value trials of all operators and dtypes: key, model, and letters of what the values may be."""
    for probe in _probes():
        for key, letters in probe.trials.items():
            content = probe.compile.model()
            assert isinstance(content, bytes)
            yield key, content, letters


def compare_limit(model: bytes, letters: str, device: Device, capabilities: Capabilities) -> TrialResult:
    """Compare what a device computes for an operator and a dtype with others."""
    names = [value.name for value in ModelProto.FromString(model).graph.input]
    with ScratchFolder("limits") as folder:
        path = Path(folder) / "operator.onnx"
        path.write_bytes(model)
        return capabilities.compared(ValueTrial(str(path), dict.fromkeys(names, letters)), device)


def _compared(probe: _Probe, letters: str, device: Device, capabilities: Capabilities) -> TrialResult:
    content = probe.compile.model()
    assert isinstance(content, bytes)
    return compare_limit(content, letters, device, capabilities)


def _trial_keys(operator: str, dtype: str) -> list[str]:
    """Return the keys of the trials of an operator: with ordinary numbers, and with those beyond 32 bits."""
    key = f"limits {operator}:{dtype}"
    return [key, f"{key}:wide"] if dtype in _WIDE_DTYPES else [key]


def _probes() -> Iterator[_Probe]:
    for rank in range(1, MAX_RANK + 1):
        yield _Probe(CompileProbe(f"{_VERSION} rank {rank}", partial(_negation, (*[1] * (rank - 1), 2))))
    yield _Probe(CompileProbe(f"{_VERSION} symbolic", partial(_negation, ("n", 2))))
    for name, models in sorted(_by_operator().items()):
        tried: set[str] = set()
        for model in models:
            for number, (dtype, variant) in enumerate(_variants(model)):
                if dtype not in tried:
                    tried.add(dtype)
                    probe = CompileProbe(f"{_VERSION} operator {name} {dtype}", variant.SerializeToString)
                    # Only in the test's own dtype: trials of all would take many minutes.
                    trials = dict(zip(_trial_keys(name, dtype), ("", "w"), strict=False)) if number == 0 else {}
                    yield _Probe(probe, trials)


def _negation(shape: Sequence[int | str]) -> bytes:
    return build_model([helper.make_node("Neg", ["x"], ["y"])], shape, shape).SerializeToString()


def _by_operator() -> dict[str, list[ModelProto]]:
    """Return the smallest test models of each operator, in a common opset where the operator exists in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases compute expected outputs, some beyond a dtype's range
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    by_operator: dict[str, list[ModelProto]] = {}
    for case in cases:
        if case.model is None or len(case.model.graph.node) != 1:
            continue
        node = case.model.graph.node[0]
        name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        model = _as_exported(case.model, case.data_sets[0][0] if case.data_sets else ())
        by_operator.setdefault(name, []).append(model)
    return {name: sorted(models, key=_complexity)[:_MODELS_MAX] for name, models in by_operator.items()}


def _complexity(model: ModelProto) -> tuple[bool, bool, int]:
    return model.opset_import[0].version > _COMMON_OPSET, _main_dtype(model) != TensorProto.FLOAT, model.ByteSize()


def _as_exported(model: ModelProto, feeds: Sequence[object]) -> ModelProto:
    """Return a test's model as an exporter would write it: in a common opset, with axes and shapes as constants."""
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
    """Return the model in its own dtype and, if that is floating-point, in all others that the specification allows."""
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
    """Return the dtype of the first input, or of the first output where there is no input."""
    for value in (*model.graph.input, *model.graph.output):
        if value.type.HasField("tensor_type"):
            return int(value.type.tensor_type.elem_type)
    return None
