"""Capability queries without a model: which operators, data types and ranks each device supports."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onnx import TensorProto

from trisect import api
from trisect.profiles.capabilities.op_support_limits import DeviceLimits, cached_limits, probe_limits
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineMissing, InvalidInput
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.tensors.dtypes import onnx_dtype_name

SupportLevel = Literal["optimized", "fallback", "unsupported"]

_DTYPES = tuple(name for number in TensorProto.DataType.values() if (name := onnx_dtype_name(number)))
_WEBNN = {
    "averagepool2d": "AveragePool", "clamp": "Clip", "conv2d": "Conv", "convtranspose2d": "ConvTranspose",
    "cumulativesum": "CumSum", "isinfinite": "IsInf", "l2pool2d": "LpPool", "lesser": "Less",
    "lesserorequal": "LessOrEqual", "logicaland": "And", "logicalnot": "Not", "logicalor": "Or", "logicalxor": "Xor",
    "maxpool2d": "MaxPool", "resample2d": "Resize", "roundeven": "Round", "triangular": "Trilu",
}  # fmt: skip
"""WebNN's operator names that differ from ONNX's by more than upper and lower case."""


@dataclass(frozen=True)
class OpSupport:
    """The result of `query_support`; equal to its level as a string."""

    verdict: SupportLevel
    """``optimized``: on a device of the first tier; ``fallback``: only on others; ``unsupported``: on none."""
    devices: Mapping[str, str]
    """Device id -> why it is not supported there; empty where it is."""

    def __eq__(self, other: object) -> bool:
        return self.verdict == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.verdict)

    def __str__(self) -> str:
        return self.verdict


def op_support_limits_per_device(
    devices: str | Iterable[str] = "auto", progress: Progress | None = None
) -> dict[str, DeviceLimits]:
    """Return what each device supports, as probed by compiling: operators, data types, rank, shapes, quantisation.

    Parameters
    ----------
    devices : str or iterable of str
        As for `trisect.devices`.
    progress : callable, optional
        The first call compiles every operator on each device, which takes seconds to minutes; the results are cached.

    Returns
    -------
    dict of str to DeviceLimits
        Each can be passed to `create_context` as ``limits``.
    """
    report = progress or no_progress
    return {device.id: probe_limits(device, progress=report) for device in api.usable_devices(devices)}


def query_support(
    tiers: Sequence[Sequence[Device]],
    data_types: Iterable[str],
    maximum_rank: int | None,
    operators: Iterable[str],
    progress: Progress = no_progress,
) -> OpSupport:
    """Return whether tiers of devices support data types, a rank and operators; see `Context.query_support`."""
    dtypes = tuple(data_types)
    for name in dtypes:
        if name not in _DTYPES:
            raise _unknown("data type", name, _DTYPES)
    if maximum_rank is not None and not (isinstance(maximum_rank, int) and maximum_rank >= 0):
        raise InvalidInput(f"maximum_rank={maximum_rank!r}: expected an integer of at least 0")
    operator_names = tuple(operators)
    reasons: dict[str, str] = {}
    for device in (device for tier in tiers for device in tier):
        try:
            limits = cached_limits(device) or probe_limits(device, progress=progress)
        except EngineMissing:
            reasons[device.id] = _refusal_by_published_limits(device, dtypes, maximum_rank)
            continue
        reasons[device.id] = _refusal(limits, dtypes, maximum_rank, operator_names)
    if any(not reasons[device.id] for device in tiers[0]):
        return OpSupport("optimized", reasons)
    return OpSupport("fallback" if not all(reasons.values()) else "unsupported", reasons)


def _refusal_by_published_limits(device: Device, data_types: Sequence[str], maximum_rank: int | None) -> str:
    """Return why a published device, which cannot be probed here, does not support a query; empty where it does."""
    limits = device.limits
    unsupported = [name for name in data_types if limits.dtypes and name not in limits.dtypes]
    if unsupported:
        return f"does not support {unsupported[0]}"
    return _refusal_by_rank(limits.maximum_rank, maximum_rank)


def _refusal(
    limits: DeviceLimits, data_types: Sequence[str], maximum_rank: int | None, operators: Sequence[str]
) -> str:
    """Return why a probed device does not support a query; empty where it does."""
    unsupported = [name for name in data_types if name not in limits.data_types]
    if unsupported:
        return f"no operator supports {unsupported[0]}"
    if rank := _refusal_by_rank(limits.maximum_rank, maximum_rank):
        return rank
    for name in operators:
        operator = limits.operators[_onnx_name(name, limits.operators)]
        if not operator.dtypes:
            return f"{name}: {next(iter(operator.refused.values()), 'does not compile')}"
        if data_types and not set(data_types) & set(operator.dtypes):
            return f"{name} does not support {', '.join(data_types)}, only {', '.join(operator.dtypes)}"
    return ""


def _refusal_by_rank(limit: int | None, maximum_rank: int | None) -> str:
    if limit is None or maximum_rank is None or maximum_rank <= limit:
        return ""
    return f"supports tensors of at most {limit} dimensions"


def _onnx_name(name: str, known: Iterable[str]) -> str:
    """Return ONNX's name of an operator that is named as in ONNX or in WebNN."""
    by_lower = {operator.lower(): operator for operator in known}
    plain = str(name).lower().replace("_", "")
    onnx_name = _WEBNN.get(plain) or by_lower.get(plain) or by_lower.get(str(name).lower())
    if onnx_name is None:
        raise _unknown("operator", name, by_lower.values())
    return onnx_name


def _unknown(what: str, name: object, known: Iterable[str]) -> InvalidInput:
    by_lower = {word.lower(): word for word in known}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    remedy = f"did you mean {by_lower[near[0]]!r}?" if near else "use a name of ONNX or WebNN"
    return InvalidInput(f"unknown {what} {str(name)[:80]!r}", remedy=remedy)
