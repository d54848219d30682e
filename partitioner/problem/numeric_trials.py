"""Compares a device's results with ONNX's reference implementation, on generated inputs.

A device may compile an operator and compute another: ignore an attribute that it does not know, narrow float64 to
float32, mishandle infinities. Compiling does not show that; a run on generated inputs mostly does. Such inputs can also
crash an engine, so numeric trials run in a child process.
"""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from trisect.runtime.child_process import ChildProcess, ChildProcessFailed, Handler
from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions, Module
from trisect.runtime.errors import TrisectError
from trisect.runtime.tensors.containers import unpack
from trisect.runtime.tensors.synthetic_feeds import random_value
from trisect.runtime.tensors.tensor_spec import UNKNOWN_RANK, TensorSpec
from trisect.runtime.tensors.value_difference import compare

RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-3, 1e-7
"""Tolerances of ONNX's own conformance tests."""
_BFLOAT16_RELATIVE_TOLERANCE = 2.0**-6
_DRAWS = (0, 0, 0, 0, 0, 1, 1, 2, 2)
"""`extremeness` of the inputs of each run; see `random_value`."""
_OUTPUT_BYTES_MAX = 1 << 20
_TIME_LIMIT_S = 60.0

Outcome = Literal["equal", "different", "failed", "undecided"]


@dataclass(frozen=True)
class NumericResult:
    """How a device's results compare with the reference."""

    outcome: Outcome
    """``undecided``: the reference has no result for the generated inputs, or one too large to compare."""
    reason: str = ""
    """What differs, or why the device failed; empty for ``equal``."""


EQUAL = NumericResult("equal")
UNDECIDED = NumericResult("undecided", "not compared: ONNX's reference has no result for the generated inputs")


class _TrialRequest(msgspec.Struct):
    model: str
    device: Device
    reference: Device


class NumericTrials:
    """A child process that runs numeric trials; it is replaced when an engine crashes it."""

    def __init__(self) -> None:
        self._process: ChildProcess | None = None
        self._lock = threading.Lock()

    def run(self, model: Path, device: Device, reference: Device) -> NumericResult:
        """Compare a device with the reference; see `compare_with_reference`.

        Raises
        ------
        ChildProcessFailed
            When the process cannot be started.
        """
        with self._lock:
            if self._process is None or self._process.has_ended:
                self._process = ChildProcess(_handler, "the process of numeric trials")
            try:
                reply = self._process.request(_TrialRequest(str(model), device, reference), time_limit_s=_TIME_LIMIT_S)
            except ChildProcessFailed as error:
                self._process.close()
                self._process = None
                return NumericResult("failed", error.reason)
            return msgspec.convert(reply, NumericResult)


@cache
def numeric_trials() -> NumericTrials:
    """Return the one process for numeric trials; it starts with the first trial."""
    return NumericTrials()


def _handler() -> Handler:
    def answer(document: Any) -> NumericResult:
        request = msgspec.convert(document, _TrialRequest)
        return compare_with_reference(Path(request.model), request.device, request.reference)

    return answer


def compare_with_reference(model: Path, device: Device, reference: Device) -> NumericResult:
    """Run a model on a device and on the reference, on several generated inputs, and compare the outputs.

    Parameters
    ----------
    model : Path
        A small ONNX file: the reference is slow.
    """
    with contextlib.ExitStack() as stack:
        try:
            expected = stack.enter_context(contextlib.closing(load(model, reference)))
        except TrisectError:
            return UNDECIDED
        try:
            actual = stack.enter_context(contextlib.closing(load(model, device, LoadOptions(threads=1))))
        except TrisectError as error:
            return NumericResult("failed", error.message)
        seed = zlib.crc32(model.read_bytes())
        results = []
        for draw_number, extremeness in enumerate(_DRAWS):
            rng = np.random.default_rng((seed, draw_number))
            feeds = {s.name: random_value(s.dtype, _sizes(s), rng, extremeness=extremeness) for s in expected.inputs}
            results.append(_compare_once(actual, expected, feeds))
    problems = [result for result in results if result.outcome in ("different", "failed")]
    return problems[0] if problems else EQUAL if EQUAL in results else UNDECIDED


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return (2, 3) if spec.shape == UNKNOWN_RANK else tuple(dim if isinstance(dim, int) else 2 for dim in spec.shape)


def _compare_once(actual: Module, expected: Module, feeds: Mapping[str, np.ndarray]) -> NumericResult:
    try:
        expected_outputs = expected.run(feeds)
    except TrisectError:
        return UNDECIDED
    if sum(array.nbytes for array in expected_outputs.values()) > _OUTPUT_BYTES_MAX:
        return UNDECIDED
    try:
        outputs = actual.run(feeds)
    except TrisectError as error:
        return NumericResult("failed", error.message)
    for spec in expected.outputs:
        relative = _BFLOAT16_RELATIVE_TOLERANCE if "bfloat16" in spec.dtype else RELATIVE_TOLERANCE
        one, other = (unpack(spec.dtype, values[spec.name]) for values in (outputs, expected_outputs))
        difference = compare(one, other, absolute=ABSOLUTE_TOLERANCE, relative=relative)
        if difference.worst > 1:
            return NumericResult("different", f"{spec.name!r} is off by {difference.max_abs:.2g} from ONNX's reference")
    return EQUAL
