"""Capability queries without a model: what each device takes, and whether a context can run this and that."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onnx import TensorProto

from trisect.profiles.capabilities.op_support_limits import DeviceLimits, known_limits, probe_limits
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineMissing, InvalidInput
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.tensors.tensors import onnx_dtype_name

from .. import api

Verdict = Literal["optimized", "fallback", "unsupported"]

_DTYPES = tuple(name for number in TensorProto.DataType.values() if (name := onnx_dtype_name(number)))
_WEBNN = {
    "averagepool2d": "AveragePool", "clamp": "Clip", "conv2d": "Conv", "convtranspose2d": "ConvTranspose",
    "cumulativesum": "CumSum", "isinfinite": "IsInf", "l2pool2d": "LpPool", "lesser": "Less",
    "lesserorequal": "LessOrEqual", "logicaland": "And", "logicalnot": "Not", "logicalor": "Or", "logicalxor": "Xor",
    "maxpool2d": "MaxPool", "resample2d": "Resize", "roundeven": "Round", "triangular": "Trilu",
}  # fmt: skip
"""WebNN's names of operators that differ from ONNX's by more than capitals."""


@dataclass(frozen=True)
class Support:
    """An answer to `query_support`; equal to its verdict as a word."""

    verdict: Verdict
    """``optimized``: on the most wanted devices; ``fallback``: only on others; ``unsupported``: on none."""
    devices: Mapping[str, str]
    """Device id -> why not; empty where it can."""

    def __eq__(self, other: object) -> bool:
        return self.verdict == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.verdict)

    def __str__(self) -> str:
        return self.verdict


def op_support_limits_per_device(
    devices: str | Iterable[str] = "auto", progress: Progress = no_progress
) -> dict[str, DeviceLimits]:
    """What each device takes: operators, dtypes, rank, fixed shapes, quantisation, as found by compiling.

    Parameters
    ----------
    devices : str or iterable of str
        As for `trisect.devices`.
    progress : callable, optional
        The first time each device is tried with every operator, which takes seconds to minutes; later it is remembered.

    Returns
    -------
    dict of str to DeviceLimits
        Each may be given to `create_context` as ``limits``.
    """
    return {device.id: probe_limits(device, progress=progress) for device in api.usable_devices(devices)}


def query(
    ranks: Sequence[Sequence[Device]],
    data_types: Iterable[str],
    maximum_rank: int | None,
    operators: Iterable[str],
    progress: Progress = no_progress,
) -> Support:
    """Whether devices in ranks can run work of these kinds; see `Context.query_support`."""
    wanted = tuple(data_types)
    for name in wanted:
        if name not in _DTYPES:
            raise _unknown("dtype", name, _DTYPES)
    if maximum_rank is not None and not (isinstance(maximum_rank, int) and maximum_rank >= 0):
        raise InvalidInput(f"a rank of {maximum_rank!r} makes no sense", remedy="give a whole number")
    named = tuple(operators)
    reasons: dict[str, str] = {}
    for device in (device for rank in ranks for device in rank):
        try:
            limits = known_limits(device) or probe_limits(device, progress=progress)
        except EngineMissing:
            reasons[device.id] = _by_declared(device, wanted, maximum_rank)
            continue
        reasons[device.id] = _refusal(limits, wanted, maximum_rank, named)
    if any(not reasons[device.id] for device in ranks[0]):
        return Support("optimized", reasons)
    return Support("fallback" if not all(reasons.values()) else "unsupported", reasons)


def _by_declared(device: Device, data_types: Sequence[str], maximum_rank: int | None) -> str:
    """The answer for a published device, which nobody can ask: its limits alone."""
    limits = device.limits
    foreign = [name for name in data_types if limits.dtypes and name not in limits.dtypes]
    if foreign:
        return f"it does not compute in {foreign[0]}"
    if maximum_rank is not None and limits.maximum_rank is not None and maximum_rank > limits.maximum_rank:
        return f"it takes tensors of at most {limits.maximum_rank} dimensions"
    return ""


def _refusal(
    limits: DeviceLimits, data_types: Sequence[str], maximum_rank: int | None, operators: Sequence[str]
) -> str:
    missing = [name for name in data_types if name not in limits.data_types]
    if missing:
        return f"no operator runs in {missing[0]}"
    if maximum_rank is not None and limits.maximum_rank is not None and maximum_rank > limits.maximum_rank:
        return f"it takes tensors of at most {limits.maximum_rank} dimensions"
    for name in operators:
        found = limits.operators[_onnx_name(name, limits.operators)]
        if not found.dtypes:
            return f"{name}: {next(iter(found.refused.values()), 'it does not compile')}"
        if data_types and not set(data_types) & set(found.dtypes):
            return f"{name} does not run in {', '.join(data_types)}, only in {', '.join(found.dtypes)}"
    return ""


def _onnx_name(name: str, there_are: Iterable[str]) -> str:
    by_lower = {operator.lower(): operator for operator in there_are}
    plain = str(name).lower().replace("_", "")
    found = _WEBNN.get(plain) or by_lower.get(plain) or by_lower.get(str(name).lower())
    if found is None:
        raise _unknown("operator", name, by_lower.values())
    return found


def _unknown(what: str, name: object, there_are: Iterable[str]) -> InvalidInput:
    listed = list(there_are)
    by_lower = {word.lower(): word for word in listed}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    remedy = f"did you mean {by_lower[near[0]]!r}?" if near else "use ONNX's or WebNN's name"
    return InvalidInput(f"there is no {what} {str(name)[:80]!r}", remedy=remedy)
