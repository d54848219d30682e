"""Results of value trials that come with the package, for the engine versions that it was tested with.

They are measured, by the same trials: over the cases of ``onnx.backend.test`` with the cases' own inputs, and over the
operators of real models (`trisect.bench.acceptance`, command ``values``). So a first split need not repeat them.
Another version of an engine, or another kind of device, is tried anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import msgspec

from trisect.runtime.device import Device

from .value_trials import EQUAL, UNDECIDED, TrialOutcome, TrialResult

PATH = Path(__file__).with_name("value_results.json")
SCHEMA = 1


class EngineResults(msgspec.Struct):
    """Results of one version of an engine, by operator; a class of operator instances is a hash."""

    equal: dict[str, str] = {}
    """Operator -> hashes, separated by spaces."""
    undecided: dict[str, str] = {}
    different: dict[str, dict[str, str]] = {}
    """Operator -> hash -> what differs."""
    failed: dict[str, dict[str, str]] = {}
    """Operator -> hash -> why it fails."""


class ResultsTable(msgspec.Struct):
    """The file."""

    schema: int = SCHEMA
    measured: str = ""
    """Date and processor."""
    engines: dict[str, EngineResults] = {}
    """Engine and version -> results."""


def shipped_result(key: str, device: Device) -> TrialResult | None:
    """Return the shipped result for a key of a value trial; None where there is none for this device."""
    return _by_key(_identity(device)).get(key) if device.kind == "cpu" else None


def make_table(measured: str, results: Iterable[tuple[str, Device, TrialResult]]) -> ResultsTable:
    """Return a table of results of keys on devices."""
    table = ResultsTable(measured=measured)
    hashes: dict[tuple[str, TrialOutcome], dict[str, list[str]]] = {}
    for key, device, result in sorted(results, key=lambda item: (_identity(item[1]), item[0])):
        operator, _, digest = key.rpartition(" ")
        engine = table.engines.setdefault(_identity(device), EngineResults())
        if result.outcome in ("different", "failed"):
            getattr(engine, result.outcome).setdefault(operator, {})[digest] = result.reason
        else:
            hashes.setdefault((_identity(device), result.outcome), {}).setdefault(operator, []).append(digest)
    for (name, outcome), operators in hashes.items():
        joined = {operator: " ".join(digests) for operator, digests in operators.items()}
        setattr(table.engines[name], outcome, joined)
    return table


def clear_cache() -> None:
    """Read the file again when it is needed next."""
    _table.cache_clear()
    _by_key.cache_clear()


@cache
def _table() -> ResultsTable:
    if not PATH.exists():
        return ResultsTable()
    return msgspec.json.decode(PATH.read_bytes(), type=ResultsTable)


@cache
def _by_key(engine: str) -> Mapping[str, TrialResult]:
    results = _table().engines.get(engine, EngineResults())
    by_key: dict[str, TrialResult] = {}
    for operators, result in ((results.equal, EQUAL), (results.undecided, UNDECIDED)):
        for operator, digests in operators.items():
            by_key |= {f"{operator} {digest}": result for digest in digests.split()}
    for outcome in ("different", "failed"):
        for operator, reasons in getattr(results, outcome).items():
            by_key |= {f"{operator} {digest}": TrialResult(outcome, reason) for digest, reason in reasons.items()}
    return by_key


def _identity(device: Device) -> str:
    return f"{device.engine} {device.engine_version}"
