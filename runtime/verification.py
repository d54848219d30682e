"""Checks a split against the whole model: same feeds, every boundary tensor and output side by side.

A split can be fast and wrong: another engine rounds differently, fuses differently, or has a bug in one kernel. Looking
at the boundaries as well as at the outputs tells in which segment the answers begin to part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from .device import Device
from .engines import capabilities, find_devices, load
from .engines.base import LoadOptions, Module
from .errors import EngineFailed, InvalidModel, UnsupportedModel
from .plans.plan import Plan
from .plans.plan_parts import Segment
from .sessions.session import Session
from .tensors.containers import unpack
from .tensors.feed_checks import check_feeds
from .tensors.layouts import in_model_layout
from .tensors.onnx_tensors import all_tensors
from .tensors.onnx_types import type_of
from .tensors.synthetic_feeds import generate_feeds
from .tensors.tensor_spec import Arrays, TensorSpec
from .tensors.value_difference import compare

TOLERANCES: Mapping[str, float] = {"float32": 1e-3, "float16": 1e-2, "fast": 5e-2}
"""Precision asked for -> how far a value may be off, absolutely plus relatively to the reference's value."""

_REFERENCES = ("cpu:ort", "cpu:reference")


@dataclass(frozen=True)
class TensorCheck:
    """One tensor of the split run beside the same tensor of the whole model."""

    name: str
    segment: int
    """Index of the segment that made it; -1 for an output that is an input passed through."""
    is_output: bool
    """True for the model's outputs, False for a tensor on a boundary between segments."""
    max_abs: float
    """Largest difference; infinite where shapes differ or only one side has a NaN."""
    max_rel: float
    """`max_abs` as a share of the largest magnitude in the reference."""
    worst: float
    """Largest difference as a share of what the tolerance allows at that element; above 1 is wrong."""
    dtype: str = "float32"
    device: str = ""
    """Id of the device that made it; empty for an input passed through."""
    where: tuple[int, ...] = ()
    """Index of the element that is worst; behind that of its list where it is in one."""

    @property
    def ok(self) -> bool:
        return self.worst <= 1.0


@dataclass(frozen=True)
class Verification:
    """How right a split was."""

    checks: tuple[TensorCheck, ...]
    tolerance: float
    reference: str
    """Id of the device that ran the whole model."""
    drift_segment: int | None
    """First segment that got right tensors and gave wrong ones; None where all is right."""

    @property
    def ok(self) -> bool:
        """True when every output of the model is within the tolerance."""
        return all(check.ok for check in self.checks if check.is_output)

    @property
    def max_abs(self) -> float:
        """Largest difference in any output."""
        return max((check.max_abs for check in self.checks if check.is_output), default=0.0)

    @property
    def max_rel(self) -> float:
        """Largest difference in any output, as a share of its largest magnitude."""
        return max((check.max_rel for check in self.checks if check.is_output), default=0.0)


def verify(
    plan: Plan,
    model_path: str | Path,
    feeds: Arrays | None = None,
    *,
    reference: str | None = None,
    precision: str = "float32",
    tolerance: float | None = None,
    seed: int = 0,
    executor: str = "threads",
    address: str | None = None,
) -> Verification:
    """Run a plan and its whole model on the same feeds, and compare.

    Parameters
    ----------
    plan : Plan
    model_path : path
        The model that was split.
    feeds : mapping of str to array, optional
        Default: generated from the seed (see `generate_feeds`).
    reference : str, optional
        Device that runs the whole model, in float32. When left out ``cpu:ort``, or ONNX's own ``cpu:reference`` where
        that cannot.
    precision : str
        What the split runs in; sets the tolerance too (`TOLERANCES`).
    tolerance : float, optional
        ``|split - whole| <= tolerance + tolerance * |whole|`` must hold everywhere.
    executor, address : str
        What carries the split out, as for `Session`; the whole model runs in this process.

    Raises
    ------
    UnknownDevice
        For a reference that is not here.
    InvalidInput
        For feeds that do not fit the model.
    InvalidModel
        For a model file that cannot be read, or is not the one that was split.
    EngineFailed
        Where either side cannot run.
    ClusterFailed
        For a cluster that cannot be reached, or that lacks a device of the plan.
    """
    path = Path(model_path)
    devices = find_devices(reference if reference is not None else _REFERENCES)
    model = _read(path)
    given = check_feeds(plan.inputs, feeds) if feeds is not None else generate_feeds(model, plan, seed)
    made = set(_made_in(model))
    extra = [spec for spec in _boundary(plan) if spec.name in made]
    device, whole = _run_whole(model, path, devices, extra, given)
    shown = replace(plan, outputs=(*plan.outputs, *extra))
    with Session(shown, executor, LoadOptions(precision=precision), address=address) as session:
        split = session.run(given)
    allowed = TOLERANCES.get(precision, TOLERANCES["fast"]) if tolerance is None else tolerance
    makers = {spec.name: segment for segment in plan.segments for spec in segment.outputs}
    outputs = {spec.name for spec in plan.outputs}
    missing = outputs - whole.keys()
    if missing:
        raise InvalidModel(f"{path.name} has no output {min(missing)!r}", remedy="give the model that was split")
    checks = tuple(
        _check(spec, makers.get(spec.name), spec.name in outputs, split[spec.name], whole, allowed)
        for spec in (*extra, *plan.outputs)
    )
    return Verification(checks, allowed, device.id, _drift(plan, checks))


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # protobuf's DecodeError has no common base over its implementations
        raise InvalidModel(f"{path} is not a valid ONNX file") from error


def _boundary(plan: Plan) -> list[TensorSpec]:
    read = {spec.name for segment in plan.segments for spec in segment.inputs}
    outputs = {spec.name for spec in plan.outputs}
    return [s for segment in plan.segments for s in segment.outputs if s.name in read and s.name not in outputs]


def _made_in(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        yield from node.output


def _run_whole(
    model: onnx.ModelProto, path: Path, devices: list[Device], extra: list[TensorSpec], feeds: Arrays
) -> tuple[Device, dict[str, np.ndarray]]:
    """What the first device that can run the model gives, and which that is."""
    for spec in extra:
        model.graph.output.append(onnx.ValueInfoProto(name=spec.name, type=type_of(spec.dtype)))
    for device in devices:
        try:
            with closing(_load_whole(model, path, device)) as module:
                return device, module.run(feeds)
        except (EngineFailed, UnsupportedModel):
            if device is devices[-1]:
                raise
    raise AssertionError("no device to run the whole model on")


def _load_whole(model: onnx.ModelProto, path: Path, device: Device) -> Module:
    folder = path.resolve().parent
    if capabilities(device).external_data_folder:
        return load(model.SerializeToString(), device, LoadOptions(external_data_folder=os.fspath(folder)))
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in all_tensors(model)):
        whole = onnx.ModelProto()
        whole.CopyFrom(model)
        onnx.load_external_data_for_model(whole, os.fspath(folder))
        model = whole
    return load(model.SerializeToString(), device)


def _check(
    spec: TensorSpec, maker: Segment | None, is_output: bool, split: np.ndarray, whole: Arrays, tolerance: float
) -> TensorCheck:
    got, wanted = unpack(spec.dtype, in_model_layout(spec, split)), unpack(spec.dtype, whole[spec.name])
    found = compare(got, wanted, absolute=tolerance, relative=tolerance)
    return TensorCheck(
        spec.name, -1 if maker is None else maker.index, is_output, found.max_abs, found.max_rel, found.worst,
        spec.dtype, "" if maker is None else maker.device, found.where,
    )  # fmt: skip


def _drift(plan: Plan, checks: tuple[TensorCheck, ...]) -> int | None:
    wrong = {check.name for check in checks if not check.ok}
    for segment in plan.segments:
        gives_wrong = any(spec.name in wrong for spec in segment.outputs)
        if gives_wrong and not any(spec.name in wrong for spec in segment.inputs):
            return segment.index
    return None
