"""Runs a small model on a device and on others with the same inputs, and compares what they compute.

An engine may compile an operator and compute another: ignore an attribute that it does not know, narrow 64-bit numbers,
mishandle ties. Compiling does not show that; running does. A device is different where it disagrees with ONNX's
reference implementation and with every other engine that can run the model: one implementation may have a fault, or
round in its own way. Inputs can also crash an engine, so trials run in a child process.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx.version_converter

from trisect.runtime.device import Device
from trisect.runtime.engines import computes_in_half, find_devices, load
from trisect.runtime.engines.base import LoadOptions, Module
from trisect.runtime.errors import TrisectError
from trisect.runtime.isolated_calls import call_isolated
from trisect.runtime.tensors.containers import container_of, unpack
from trisect.runtime.tensors.value_difference import compare

from .trial_feeds import QUANTISING_OPERATORS, TrialFeeds, is_random

REFEREES = ("cpu:ort", "cpu:openvino")
"""Engines that are asked where the reference has no result or disagrees, the most trusted first."""
REFERENCE_DEVICE = "cpu:reference"
REFERENCE_OPSET = 13
"""The oldest opset whose operators ONNX's reference implements as they were defined then."""
_RELATIVE_TOLERANCES = {"float16": 1e-2, "bfloat16": 2.0**-5}
_RELATIVE_TOLERANCE, _ABSOLUTE_TOLERANCE = 1e-3, 1e-7
"""Tolerances of ONNX's own conformance tests."""
_MAGNITUDE_SHARE, _MAGNITUDE_SHARE_OF_HALVES = 0.02, 0.2
"""Also allowed: this share of the relative tolerance at the usual magnitude, for sums that cancel out."""
_OUTPUT_BYTES_MAX = 1 << 26
_TIME_LIMIT_S = 30.0

TrialOutcome = Literal["equal", "different", "failed", "undecided"]


@dataclass(frozen=True)
class TrialResult:
    """How a device's results compare with those of others."""

    outcome: TrialOutcome
    """``failed``: the device has no result where others have one; ``undecided``: nothing else has a result."""
    reason: str = ""
    """What differs, or why the device failed; empty for ``equal``."""


EQUAL = TrialResult("equal")
UNDECIDED = TrialResult("undecided", "not compared: nothing else has a result for the generated inputs")


@dataclass(frozen=True)
class ValueTrial:
    """What to run."""

    model: str
    """Path of an ONNX file, small enough for numpy where the reference is used."""
    kinds: Mapping[str, str]
    """See `TrialFeeds`."""
    use_reference: bool = True
    """Whether ONNX's reference has reliable results for these operators."""
    is_old: bool = False
    """Whether the model has to be converted to a newer opset for the reference, which implements the newest one."""


def isolated_comparison(trial: ValueTrial, device: Device) -> TrialResult:
    """Compare what a device computes with others in a child process; see `compare_values`.

    Raises
    ------
    ChildProcessFailed
        When the engine crashed, did not end in time, or took too much memory.
    """
    return call_isolated(compare_values, _TIME_LIMIT_S, trial, device)


def compare_values(trial: ValueTrial, device: Device) -> TrialResult:
    """Run a model on a device with generated inputs, and compare the outputs with those of others.

    Returns
    -------
    TrialResult
        ``different`` where for some inputs the device agrees with none of those that have a result.
    """
    model = onnx.load(trial.model)
    if any(not value.type.tensor_type.HasField("shape") for value in model.graph.output):
        try:
            model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        except (onnx.shape_inference.InferenceError, RuntimeError):  # shrunk to sizes that contradict each other
            return UNDECIDED
    feeds = TrialFeeds(model, trial.kinds, zlib.crc32(model.SerializeToString(deterministic=True)))
    with contextlib.ExitStack() as stack:
        judges = Judges(trial.model, device, stack, reference_model=_reference_model(trial, model))
        if not judges.has_any:
            return UNDECIDED
        try:
            actual = stack.enter_context(contextlib.closing(load(Path(trial.model), device, LoadOptions(threads=1))))
        except TrisectError:  # it compiles otherwise, or would not be tried
            return UNDECIDED
        outcomes = []
        for label, arrays in feeds.draws():
            outcome = judge_once(model, actual, judges, arrays)
            if outcome.outcome == "different":
                return TrialResult("different", f"{outcome.reason}, with {label}")
            outcomes.append(outcome)
    # An engine may refuse some inputs that others take, as long as it says so.
    failures = [outcome for outcome in outcomes if outcome.outcome == "failed"]
    return EQUAL if EQUAL in outcomes else failures[0] if failures else UNDECIDED


def _reference_model(trial: ValueTrial, model: onnx.ModelProto) -> Path | bytes | None:
    """Return the model for the reference: of an opset that it implements."""
    if not trial.use_reference:
        return None
    if not trial.is_old:
        return Path(trial.model)
    try:
        return onnx.version_converter.convert_version(model, REFERENCE_OPSET).SerializeToString()
    except (RuntimeError, ValueError):  # ConvertError, and what the checker raises
        return None


class Judges:
    """ONNX's reference and other engines with the model loaded; an engine only once it is needed."""

    def __init__(
        self, model: str, device: Device, stack: contextlib.ExitStack, *, reference_model: Path | bytes | None
    ) -> None:
        self._model, self._stack = Path(model), stack
        reference = find_devices(REFERENCE_DEVICE)[0]
        self._reference = None if reference_model is None else self._load(reference_model, reference)
        self._engine = device.engine

    @property
    def has_any(self) -> bool:
        """Whether there is anything to compare with."""
        return self._reference is not None or bool(self._referees)

    @property
    def trusted(self) -> Iterator[Module]:
        """All that can run the model, the most trusted first."""
        if self._reference is not None:
            yield self._reference
        yield from self._referees

    @cached_property
    def _referees(self) -> Sequence[Module]:
        loaded = []
        for name in REFEREES:
            with contextlib.suppress(TrisectError):
                referee = find_devices(name)[0]
                if referee.engine == self._engine:
                    # Without the reference, an engine is judged by those that are trusted more.
                    if self._reference is None:
                        break
                    continue
                module = self._load(self._model, referee)
                loaded += [module] if module is not None else []
        return loaded

    def _load(self, model: Path | bytes, device: Device) -> Module | None:
        try:
            return self._stack.enter_context(contextlib.closing(load(model, device, LoadOptions(threads=1))))
        except TrisectError:
            return None


def judge_once(model: onnx.ModelProto, actual: Module, judges: Judges, feeds: Mapping[str, np.ndarray]) -> TrialResult:
    """Compare the results for one set of inputs."""
    outputs: Mapping[str, np.ndarray] | None = None
    failure, reason, has_result = "", "", False
    is_half = computes_in_half(actual.device)
    for judge in judges.trusted:
        try:
            expected = judge.run(feeds)
        except TrisectError:
            continue
        if is_half and not _fit_into_half((*feeds.values(), *expected.values())):
            continue
        if sum(array.nbytes for array in expected.values()) > _OUTPUT_BYTES_MAX:
            continue
        has_result = True
        if outputs is None and not failure:
            try:
                outputs = actual.run(feeds)
            except TrisectError as error:
                failure = error.reason
        if outputs is None:
            break
        difference = results_differ(model, actual, outputs, expected)
        if not difference:
            return EQUAL
        reason = reason or f"{difference} from {judge.device.id}"
    if not has_result:
        return UNDECIDED
    return TrialResult("failed", failure) if failure else TrialResult("different", reason)


def results_differ(
    model: onnx.ModelProto, module: Module, outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> str:
    """Return how outputs differ from the expected ones, in a few words; empty where they agree."""
    operators = {node.op_type for node in model.graph.node}
    step = 1 if operators & QUANTISING_OPERATORS else 0
    values_count = not is_random(model)
    for spec in module.outputs:
        if spec.name not in expected:
            continue
        one, other = outputs[spec.name], expected[spec.name]
        if container_of(spec.dtype) is not None or other.dtype.kind == "O":
            pair = unpack(spec.dtype, one), unpack(spec.dtype, other)
            if "Cast" in operators and container_of(spec.dtype) is None and one.shape == other.shape:
                pair = _read_numbers(one), _read_numbers(other)
            if values_count and compare(*pair, absolute=_ABSOLUTE_TOLERANCE, relative=_RELATIVE_TOLERANCE).worst > 1:
                return f"{spec.name!r} differs"
            continue
        if one.shape != other.shape:
            return f"{spec.name!r} has shape {list(one.shape)}, not {list(other.shape)} as"
        if one.dtype != other.dtype:
            return f"{spec.name!r} has dtype {one.dtype}, not {other.dtype} as"
        dtype = "float16" if computes_in_half(module.device) and "float" in spec.dtype else spec.dtype
        off = _largest_difference(dtype, one, other, step) if values_count else 0.0
        if off:
            return f"{spec.name!r} is off by {off:.2g}"
    return ""


def _fit_into_half(arrays: Iterable[np.ndarray]) -> bool:
    """Return whether float16 has room for all floats: they are neither too large nor infinite."""
    floats = [array.astype(np.float64) for array in arrays if np.issubdtype(array.dtype, np.floating)]
    return all(bool(np.all(np.isnan(array) | (np.abs(array) <= np.finfo(np.float16).max))) for array in floats)


def _read_numbers(texts: np.ndarray) -> list[float | np.ndarray]:
    """Return the numbers that texts spell, for the operator Cast: ONNX leaves open whether 100 becomes 100 or 100.0."""
    read: list[float | np.ndarray] = []
    for text in texts.reshape(-1).tolist():
        word = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        try:
            read.append(float({"True": "1", "False": "0"}.get(word, word)))
        except ValueError:
            read.append(np.array(word, dtype=object))
    return read


def _largest_difference(dtype: str, one: np.ndarray, other: np.ndarray, step: int) -> float:
    """Return the largest difference of two arrays if it is beyond the tolerance; else 0."""
    if dtype.startswith(("int", "uint", "bool")):
        if np.array_equal(one, other):
            return 0.0
        off = float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max()) or 1.0
        return off if off > step or dtype == "bool" else 0.0
    plain = other.astype(np.complex128 if other.dtype.kind == "c" else np.float64)
    finite = np.abs(plain[np.isfinite(plain)])
    usual = float(np.minimum(finite, np.percentile(finite, 75)).mean()) if finite.size else 0.0
    relative = _RELATIVE_TOLERANCES.get(dtype, _RELATIVE_TOLERANCE)
    share = _MAGNITUDE_SHARE_OF_HALVES if dtype in _RELATIVE_TOLERANCES else _MAGNITUDE_SHARE
    absolute = _ABSOLUTE_TOLERANCE + share * relative * usual
    difference = compare(one, other, absolute=absolute, relative=relative)
    return difference.max_abs if difference.worst > 1 else 0.0
