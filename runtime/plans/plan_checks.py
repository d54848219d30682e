"""Checks what ``plan.json`` says before anything relies on it: names, numbers, sizes, dtypes and shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import onnx

from ..device import Device
from ..errors import InvalidPlan, TrisectError
from ..tensors.containers import container_of
from ..tensors.dtypes import bits_of, is_dtype
from ..tensors.onnx_types import declared_spec
from ..tensors.tensor_spec import UNKNOWN_RANK, TensorSpec
from .plan_comparison import PlanComparison
from .plan_parts import Segment, Transfer, Weights
from .timeline import Schedule

REMEDY = "make the plan again with trisect split"
_RANK_MAX = 64
_DIMENSION_MAX = 2**63 - 1
_TENSOR_BYTES_MAX = 1 << 44
_FILE_NAME_BYTES_MAX = 255
_NAME_SHOWN = 100


class PlanContent(Protocol):
    """The fields of a `Plan` that its folder depends on."""

    @property
    def devices(self) -> tuple[Device, ...]: ...
    @property
    def segments(self) -> tuple[Segment, ...]: ...
    @property
    def transfers(self) -> tuple[Transfer, ...]: ...
    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def shapes(self) -> Mapping[str, int]: ...
    @property
    def weights(self) -> Weights | None: ...
    @property
    def predicted(self) -> Schedule: ...
    @property
    def interval(self) -> tuple[float, float] | None: ...
    @property
    def comparison(self) -> PlanComparison | None: ...


def listed_files(plan: PlanContent) -> list[str]:
    """Return the names of a plan's segment and weights files."""
    return [segment.file for segment in plan.segments] + ([plan.weights.file] if plan.weights is not None else [])


def check_content(plan: PlanContent, path: Path) -> None:
    """Check the names and numbers that the rest of the runtime relies on.

    Raises
    ------
    InvalidPlan
    """
    for name in listed_files(plan):
        if not is_file_name(name):
            raise InvalidPlan(
                f"{path} names the file {name[:200]!r}, outside its folder", remedy="do not trust this plan"
            )
    if [segment.index for segment in plan.segments] != list(range(len(plan.segments))):
        raise InvalidPlan(f"{path}: segments are not numbered from 0", remedy=REMEDY)
    devices = {device.id for device in plan.devices}
    for segment in plan.segments:
        if segment.device not in devices:
            raise InvalidPlan(
                f"{path}: segment {segment.index} runs on {segment.device!r}, not among the plan's devices",
                remedy=REMEDY,
            )
    for transfer in plan.transfers:
        if not (-1 <= transfer.source < len(plan.segments) and -1 <= transfer.target < len(plan.segments)):
            raise InvalidPlan(
                f"{path}: tensor {transfer.tensor!r} moves between segments that do not exist", remedy=REMEDY
            )
    for name, size in plan.shapes.items():
        if not 0 <= size <= _DIMENSION_MAX:
            raise InvalidPlan(f"{path} gives the dimension {name!r} the size {_short(size)}", remedy=REMEDY)
    _check_predictions(plan, path)
    declared = {spec.name: spec for spec in (*plan.inputs, *plan.outputs)}
    for spec in (*plan.inputs, *plan.outputs):
        _check_spec(spec, plan.shapes, f"{path}: tensor {spec.name!r}")
    for segment in plan.segments:
        for spec in (*segment.inputs, *segment.outputs):
            where = f"{path}: tensor {spec.name!r} of segment {segment.index}"
            _check_spec(spec, plan.shapes, where)
            if spec.name in declared and not _agree(spec, declared[spec.name]):
                raise InvalidPlan(
                    f"{where} is {_type(spec)}, but {_type(declared[spec.name])} for the whole plan", remedy=REMEDY
                )


def check_signature(segment: Segment, model: onnx.ModelProto, path: Path) -> None:
    """Check that a segment's file has the inputs and outputs that the plan says.

    Raises
    ------
    InvalidPlan
    """
    for specs, values in ((segment.inputs, model.graph.input), (segment.outputs, model.graph.output)):
        if [spec.name for spec in specs] != [value.name for value in values]:
            raise InvalidPlan(f"{path} has other inputs or outputs than the plan says", remedy=REMEDY)
        for spec, value in zip(specs, values, strict=True):
            if value.type.tensor_type.elem_type == onnx.TensorProto.UNDEFINED and value.type.HasField("tensor_type"):
                continue
            try:
                declared = declared_spec(value, path.name)
            except TrisectError as error:
                raise InvalidPlan(f"{path}: {error.message}", remedy=REMEDY) from error
            if container_of(declared.dtype) is None and not _agree(spec, declared):
                raise InvalidPlan(
                    f"{path}: tensor {spec.name!r} is {_type(declared)}, but {_type(spec)} in the plan", remedy=REMEDY
                )


def is_file_name(name: str) -> bool:
    """Return whether a text names a file inside a folder, on every system.

    Examples
    --------
    >>> is_file_name("segment_000.onnx"), is_file_name("../a"), is_file_name("a" * 300), is_file_name(".a")
    (True, False, False, False)
    """
    return (
        bool(name)
        and name == Path(name).name
        and not name.startswith(".")
        and not set("\\\0") & set(name)
        and len(name.encode(errors="replace")) <= _FILE_NAME_BYTES_MAX
    )


def _check_predictions(plan: PlanContent, path: Path) -> None:
    """Check intervals, and the times of devices that run the model alone."""
    segments = plan.predicted.segment_intervals_s or {}
    rows = plan.comparison.rows if plan.comparison is not None else ()
    intervals = [("objective", plan.interval), ("latency", plan.predicted.latency_interval_s), *segments.items()]
    intervals += [(row.what, row.interval) for row in rows]
    for name, interval in intervals:
        if interval is not None and not 0 <= interval[0] <= interval[1] < math.inf:
            raise InvalidPlan(
                f"{path}: the interval of {name[:_NAME_SHOWN]!r} is {interval[0]:g} to {interval[1]:g}, "
                "expected two finite numbers in ascending order, none below 0",
                remedy=REMEDY,
            )
    for row in rows:
        if not 0 <= row.seconds < math.inf:
            raise InvalidPlan(f"{path}: {row.what[:_NAME_SHOWN]!r} takes {row.seconds:g} s", remedy=REMEDY)


def _check_spec(spec: TensorSpec, sizes: Mapping[str, int], where: str) -> None:
    if not is_dtype(spec.dtype):
        raise InvalidPlan(f"{where} has the unknown dtype {spec.dtype[:100]!r}", remedy=REMEDY)
    if len(spec.shape) > _RANK_MAX:
        raise InvalidPlan(f"{where} has {len(spec.shape)} dimensions, more than {_RANK_MAX}", remedy=REMEDY)
    if spec.layout == "NHWC" and len(spec.shape) != 4:
        raise InvalidPlan(f"{where} has the layout NHWC and {len(spec.shape)} dimensions", remedy=REMEDY)
    count = 1
    for dim in spec.shape:
        size = dim if isinstance(dim, int) else sizes.get(dim, 1)
        if not 0 <= size <= _DIMENSION_MAX:
            raise InvalidPlan(f"{where} has the dimension {_short(size)}", remedy=REMEDY)
        count *= size
    if container_of(spec.dtype) is None and count * bits_of(spec.dtype) > 8 * _TENSOR_BYTES_MAX:
        raise InvalidPlan(f"{where} is larger than any memory: {_type(spec)}", remedy="do not trust this plan")


def _agree(spec: TensorSpec, other: TensorSpec) -> bool:
    """Return whether two descriptions can be of the same tensor; layouts apart, which permute dimensions."""
    if spec.dtype != other.dtype:
        return False
    if UNKNOWN_RANK in (spec.shape, other.shape) or container_of(spec.dtype) is not None:
        return True
    if len(spec.shape) != len(other.shape):
        return False
    return spec.layout != other.layout or all(
        a == b for a, b in zip(spec.shape, other.shape, strict=True) if isinstance(a, int) and isinstance(b, int)
    )


def _type(spec: TensorSpec) -> str:
    return f"{spec.dtype}[{', '.join(map(_short, _shown(spec.shape)))}]"


def _shown(shape: tuple[int | str, ...]) -> Iterable[int | str]:
    return shape if len(shape) <= 8 else (*shape[:8], "...")


def _short(size: int | str) -> str:
    return str(size)[:40]
