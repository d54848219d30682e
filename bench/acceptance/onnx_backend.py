"""ONNX's conformance suite on split models: each node a segment, on alternating engines.

The suite compares with expected outputs of the ``onnx`` package. The same cases also run whole on each engine alone,
which shows the failures that splitting itself causes: there must be none.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import tempfile
import unittest
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from onnx import ModelProto
from onnx.backend.base import Backend as _Interface
from onnx.backend.test.runner import Runner

from trisect.backend import Backend, PreparedModel
from trisect.runtime import engines
from trisect.runtime.engines.base import LoadOptions, Module
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.tensors.containers import unpack

from .conformance_cases import case_name, cases_of

PASSED_SHARE_MIN = 1808 / 1827
"""Share of the cases for CPUs that must pass; the figures are those of onnx 1.21."""
_ALONE = ("cpu:ort", "cpu:openvino")
_VERSIONS = ("onnx", "onnxruntime", "openvino", "numpy", "trisect")
_REASON_LENGTH = 300


@dataclass(frozen=True)
class CaseOutcome:
    """The outcome of one case."""

    name: str
    kind: str
    """``Node``, ``Simple``, ``Real`` (light models), ``PyTorchConverted``, ``PyTorchOperator``."""
    status: Literal["passed", "failed", "skipped"]
    reason: str = ""
    devices: tuple[str, ...] = ()
    """Of the segments, in their order; empty where the case failed before, or ran whole."""


@dataclass(frozen=True)
class ConformanceResult:
    """Outcomes of the suite, split and on each engine alone."""

    date: str
    versions: Mapping[str, str]
    outcomes: tuple[CaseOutcome, ...]
    alone: Mapping[str, tuple[CaseOutcome, ...]]
    """Device id -> outcomes of the same cases, whole on that device."""

    def count(self, status: str) -> int:
        """Return the number of cases with this status."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def broken_by_splitting(self) -> tuple[str, ...]:
        """Cases that pass on an engine alone and fail when split."""
        passed = {o.name for outcomes in self.alone.values() for o in outcomes if o.status == "passed"}
        return tuple(o.name for o in self.outcomes if o.status == "failed" and o.name in passed)

    @property
    def met(self) -> bool:
        """Whether enough cases pass, and none is broken by splitting."""
        return self.count("passed") >= PASSED_SHARE_MIN * len(self.outcomes) and not self.broken_by_splitting

    def document(self) -> dict[str, Any]:
        """Return the result as plain values, with the reason of every failure."""
        used = Counter(device for outcome in self.outcomes for device in outcome.devices)
        return {
            "date": self.date,
            "versions": dict(self.versions),
            "cases": len(self.outcomes),
            "passed": self.count("passed"),
            "failed": [{"name": o.name, "kind": o.kind, "reason": o.reason} for o in self._with("failed")],
            "skipped": [{"name": o.name, "kind": o.kind, "reason": o.reason} for o in self._with("skipped")],
            "promised": f">= {PASSED_SHARE_MIN:.2%} of the cases, none broken by splitting",
            "met": self.met,
            "broken_by_splitting": list(self.broken_by_splitting),
            "segments": dict(sorted(used.items())),
            "alone": {d: sum(o.status == "passed" for o in outcomes) for d, outcomes in self.alone.items()},
        }

    def _with(self, status: str) -> list[CaseOutcome]:
        return [outcome for outcome in self.outcomes if outcome.status == status]


def bench_onnx_backend(
    every: int = 1, *, alone: Sequence[str] = _ALONE, progress: Progress = no_progress
) -> ConformanceResult:
    """Run ONNX's conformance suite on split models, and whole on each engine alone.

    Parameters
    ----------
    every : int
        Run only every Nth case of each kind, starting with the first.
    alone : sequence of str
        Devices that also run the cases whole.
    progress : callable, optional
    """
    backends: list[tuple[str, type[_Interface]]] = [("split", _RecordingBackend), *((id, _alone(id)) for id in alone)]
    outcomes_of: dict[str, tuple[CaseOutcome, ...]] = {}
    with temporary_onnx_home(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of overflows, which the suite tests
        suites = [(name, list(_cases(backend, every))) for name, backend in backends]
        total, done = sum(len(cases) for _, cases in suites), 0
        for name, cases in suites:
            outcomes = []
            for kind, case in cases:
                progress(done, total, f"{name}: {case_name(case)}")
                outcomes.append(_run(kind, case))
                done += 1
            outcomes_of[name] = tuple(outcomes)
    split = outcomes_of.pop("split")
    versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
    return ConformanceResult(datetime.now(UTC).date().isoformat(), versions, split, outcomes_of)


def _cases(backend: type[_Interface], every: int) -> Iterator[tuple[str, unittest.TestCase]]:
    return cases_of(Runner(backend, __name__), every)


class _ReasonResult(unittest.TestResult):
    """Records the reason of a failure in one line, without the traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.status: Literal["passed", "failed", "skipped"] = "passed"
        self.reason = ""

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        self.status = "failed"
        self.reason = " ".join(f"{err[0].__name__}: {err[1]}".split())[:_REASON_LENGTH]

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.addError(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.status, self.reason = "skipped", reason


def _run(kind: str, case: unittest.TestCase) -> CaseOutcome:
    result = _ReasonResult()
    with contextlib.redirect_stdout(None):
        case.run(result)
    prepared, _RecordingBackend.prepared = _RecordingBackend.prepared, None
    devices: tuple[str, ...] = ()
    if prepared is not None:
        devices = () if prepared.plan is None else tuple(segment.device for segment in prepared.plan.segments)
        prepared.close()
    return CaseOutcome(case_name(case), kind, result.status, result.reason, devices)


class _RecordingBackend(Backend):
    """The split backend; it stores the last model, for the devices of its segments."""

    prepared: PreparedModel | None = None

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> PreparedModel:
        prepared = super().prepare(model, device, threads=1)
        _RecordingBackend.prepared = prepared
        return prepared


def _alone(device_id: str) -> type[_Interface]:
    class DeviceBackend(_Interface):
        """Runs whole models on one device."""

        @classmethod
        def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> Any:
            chosen = engines.find_devices(device_id)[0]
            return _WholeModel(engines.load(model.SerializeToString(), chosen, LoadOptions(threads=1)))

        @classmethod
        def supports_device(cls, device: str) -> bool:
            return device == "CPU"

    return DeviceBackend


class _WholeModel:
    def __init__(self, module: Module) -> None:
        self._module = module

    def run(self, inputs: Sequence[Any], **kwargs: Any) -> tuple[Any, ...]:
        feeds = {spec.name: value for spec, value in zip(self._module.inputs, inputs, strict=False)}
        outputs = self._module.run(feeds)
        return tuple(unpack(spec.dtype, outputs[spec.name]) for spec in self._module.outputs)


@contextlib.contextmanager
def temporary_onnx_home() -> Iterator[None]:
    """Set ONNX_HOME to a temporary folder: the suite writes the inputs of its light models there."""
    before = os.environ.get("ONNX_HOME")
    with tempfile.TemporaryDirectory(prefix="trisect-onnx-") as folder:
        os.environ["ONNX_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["ONNX_HOME"]
            else:
                os.environ["ONNX_HOME"] = before
