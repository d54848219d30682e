"""Which operators a device supports: asked of its engine by trial compilation, and cached on disk.

A vendor's query may accept an operator that the compiler then refuses, so only a trial compilation is conclusive. It
takes milliseconds to seconds, and its result holds until the engine changes: it is cached by device, engine version,
and the operators, dtypes and shapes compiled. It takes place in a child process, because a compiler may crash, never
end, or take all memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import msgspec

from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import EngineFailed, UnsupportedModel
from trisect.runtime.files.cache_files import update_cache
from trisect.runtime.isolated_calls import call_isolated
from trisect.runtime.plans.plan_parts import WEIGHTS_FILE
from trisect.runtime.untrusted_files import MalformedFile, decode_json, read_bytes

from ..stored.profile_store import default_path
from .shipped_results import shipped_result
from .value_trials import TrialOutcome, TrialResult, ValueTrial, isolated_comparison

SCHEMA = 1
_SIZE_LIMIT_BYTES = 64 << 20
_MAX_REASON_LENGTH = 200
_TIME_LIMIT_S, _GRAPH_BYTES_PER_S, _WEIGHT_BYTES_PER_S = 30.0, 10_000, 50_000_000
"""Time in which a part has to compile, and how much more a large one gets."""
TIMEOUTS_MAX = 3
"""After so many compilations that took too long, a device is asked no more."""


@dataclass(frozen=True)
class CompileProbe:
    """A part of a model to compile on trial: a node, a group of nodes, a segment."""

    key: str
    """Operators, dtypes and shapes: equal for parts that a device treats alike."""
    model: Callable[[], Path | bytes]
    """Returns the part as an ONNX model; called only when the verdict is not cached."""
    dtypes: frozenset[str] = frozenset()
    """numpy's names of the dtypes that it computes in."""
    rank: int = 0
    """Highest rank of its tensors."""
    is_static: bool = True
    """Whether all shapes are known before it runs."""


@dataclass(frozen=True)
class CompileVerdict:
    """Whether a device supports a part of a model."""

    ok: bool
    reason: str = ""
    """Why not, in one line."""


class _VerdictFile(msgspec.Struct):
    schema: int
    verdicts: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    """Device, its name and its engine's version -> key of the probe -> why not; empty = supported."""


@dataclass
class Capabilities:
    """Cache of verdicts, including those of earlier processes.

    Parameters
    ----------
    path : Path, optional
        File of the cache; beside the profiles when left out. A damaged file is moved aside.

    Examples
    --------
    >>> import tempfile
    >>> from onnx import parser
    >>> from trisect.runtime.engines import find_devices
    >>> text = '<ir_version: 10, opset_import: ["": 18]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
    >>> probe = CompileProbe("Neg float32[2]", parser.parse_model(text).SerializeToString)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Capabilities(Path(folder) / "verdicts.json").supports(probe, find_devices("cpu:ort")[0]).ok
    True
    """

    path: Path = field(default_factory=lambda: default_path().parent / "capabilities.json")
    ask: Callable[[Path | bytes, Device], str] = field(default_factory=lambda: isolated_compile_failure)
    """Compiles a model on a device, here or on its node; returns why it failed, empty if it succeeded."""
    timeouts: dict[str, int] = field(default_factory=dict, init=False)
    """Device id -> number of parts that did not compile in time."""
    compare: Callable[[ValueTrial, Device], TrialResult] = field(default_factory=lambda: isolated_comparison)
    """Compares what a device computes with others, here or on its node."""
    moved: Path | None = field(default=None, init=False)
    """Where a damaged file was moved."""
    _verdicts: dict[str, dict[str, str]] = field(init=False)
    _unsaved: dict[str, dict[str, str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._verdicts = self._read()

    def known(self, probe: CompileProbe, device: Device) -> CompileVerdict | None:
        """Return the verdict if it needs no compilation: by the device's limits, or from the cache."""
        reason = _limit_violation(probe, device)
        if reason is None:
            reason = self.verdicts(device).get(probe.key)
        return None if reason is None else CompileVerdict(not reason, reason)

    def verdicts(self, device: Device) -> Mapping[str, str]:
        """Return all cached verdicts of a device: key -> why not; empty where supported."""
        return self._verdicts.get(_identity(device), {})

    def supports(self, probe: CompileProbe, device: Device) -> CompileVerdict:
        """Return the verdict, compiling the part on the device if necessary.

        Raises
        ------
        EngineMissing
            When the device's engine is not installed here, or the device is of a published machine.
        """
        verdict = self.known(probe, device)
        if verdict is not None:
            return verdict
        if self.timeouts.get(device.id, 0) >= TIMEOUTS_MAX:
            return CompileVerdict(False, f"not asked: {TIMEOUTS_MAX} other parts did not compile in time")
        return self.record(probe, device, self.failure(probe.model(), device))

    def failure(self, model: Path | bytes, device: Device) -> str:
        """Compile a model on a device, and return why it failed; empty if it succeeded.

        Raises
        ------
        EngineMissing
            As `supports`.
        """
        try:
            return self.ask(model, device)
        except ChildProcessFailed as error:
            self.timeouts[device.id] = self.timeouts.get(device.id, 0) + error.timed_out
            return f"{device.engine} failed while it compiled this: {error.reason}"[:_MAX_REASON_LENGTH]

    def record(self, probe: CompileProbe, device: Device, reason: str = "") -> CompileVerdict:
        """Add a verdict that was obtained otherwise; no reason = supported."""
        for table in (self._verdicts, self._unsaved):
            table.setdefault(_identity(device), {})[probe.key] = reason
        return CompileVerdict(not reason, reason)

    def known_values(self, key: str, device: Device) -> TrialResult | None:
        """Return how what a device computes compares with others, if that is cached or part of the shipped table."""
        shipped = shipped_result(key, device)
        if shipped is not None:
            return shipped
        verdicts = self.verdicts(device)
        for outcome in get_args(TrialOutcome):
            reason = verdicts.get(f"values {outcome}: {key}")
            if reason is not None:
                return TrialResult(outcome, reason)
        return None

    def compared(self, trial: ValueTrial, device: Device) -> TrialResult:
        """Compare what a device computes with others.

        Raises
        ------
        EngineMissing
            As `supports`.
        """
        if self.timeouts.get(device.id, 0) >= TIMEOUTS_MAX:
            return TrialResult("failed", f"not tried: {TIMEOUTS_MAX} other parts took too long")
        try:
            return self.compare(trial, device)
        except ChildProcessFailed as error:
            self.timeouts[device.id] = self.timeouts.get(device.id, 0) + error.timed_out
            return TrialResult("failed", error.reason[:_MAX_REASON_LENGTH])

    def record_values(self, key: str, device: Device, result: TrialResult) -> None:
        """Add the result of a value trial."""
        self.record(CompileProbe(f"values {result.outcome}: {key}", bytes), device, result.reason)

    def save(self) -> None:
        """Write new verdicts, merged with those that other processes have written meanwhile, if that is possible."""
        if not self._unsaved:
            return
        update_cache(self.path, self._merged, "what devices support")
        self._unsaved = {}

    def _merged(self) -> bytes:
        merged = self._read()
        for device, verdicts in self._unsaved.items():
            merged.setdefault(device, {}).update(verdicts)
        return msgspec.json.format(msgspec.json.encode(_VerdictFile(SCHEMA, merged)), indent=1)

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            file = decode_json(read_bytes(self.path, _SIZE_LIMIT_BYTES), _VerdictFile)
            if file.schema != SCHEMA:
                raise MalformedFile("of another version")
        except FileNotFoundError:
            return {}
        except (OSError, MalformedFile):
            damaged = self.path.with_name(f"{self.path.name}.damaged")
            with suppress(OSError):  # it cannot be written either
                self.path.replace(damaged)
                self.moved = damaged
            return {}
        return file.verdicts


def compile_failure(model: Path | bytes, device: Device) -> str:
    """Compile a model on a device, and return why it failed; empty if it succeeded.

    Raises
    ------
    EngineMissing
        When the device's engine is not installed here, or the device is of a published machine.
    """
    try:
        load(model, device, LoadOptions()).close()
    except (EngineFailed, UnsupportedModel) as error:
        return error.reason[:_MAX_REASON_LENGTH]
    return ""


def isolated_compile_failure(model: Path | bytes, device: Device) -> str:
    """Compile a model on a device in a child process; see `compile_failure`.

    Raises
    ------
    ChildProcessFailed
        When the engine crashed, did not end in time, or took too much memory.
    EngineMissing
        As `compile_failure`.
    """
    if isinstance(model, bytes):
        limit_s = _TIME_LIMIT_S + len(model) / _GRAPH_BYTES_PER_S
        return call_isolated(_compile_failure_of_bytes, limit_s, model, device)
    weights = model.parent / WEIGHTS_FILE
    weight_bytes = weights.stat().st_size if weights.exists() else 0
    limit_s = _TIME_LIMIT_S + model.stat().st_size / _GRAPH_BYTES_PER_S + weight_bytes / _WEIGHT_BYTES_PER_S
    return call_isolated(_compile_failure_of_file, limit_s, model, device)


def _compile_failure_of_bytes(model: bytes, device: Device) -> str:
    return compile_failure(model, device)


def _compile_failure_of_file(model: Path, device: Device) -> str:
    return compile_failure(model, device)


def _identity(device: Device) -> str:
    return f"{device.local_id} | {device.name} | {device.engine} {device.engine_version}"


def _limit_violation(probe: CompileProbe, device: Device) -> str | None:
    """Return which limit of the device a part exceeds, whatever its operators are."""
    limits = device.limits
    if limits.static_shapes and not probe.is_static:
        return "it requires static shapes"
    if limits.maximum_rank is not None and probe.rank > limits.maximum_rank:
        return f"it supports tensors of rank {limits.maximum_rank} at most, not {probe.rank}"
    unsupported = sorted(probe.dtypes - set(limits.dtypes)) if limits.dtypes else []
    return f"it does not support dtype {unsupported[0]}" if unsupported else None
