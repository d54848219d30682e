"""Compares a split with the whole model on the same feeds: all outputs and boundary tensors.

A split can be fast but wrong: engines round and fuse differently, or have a bug in one kernel. The boundary tensors
show in which segment the results start to differ.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
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
from .tensors.external_data import gather_external_data, load_external_data, read_model
from .tensors.feed_checks import check_feeds
from .tensors.onnx_types import type_of
from .tensors.synthetic_feeds import generate_feeds
from .tensors.tensor_spec import Arrays, TensorSpec, in_model_layout
from .tensors.value_difference import compare

TOLERANCES: Mapping[str, float] = {"float32": 1e-3, "float16": 1e-2, "fast": 5e-2}
"""Requested precision -> absolute and relative tolerance of each value."""

_REFERENCES = ("cpu:ort", "cpu:reference")


@dataclass(frozen=True)
class TensorCheck:
    """Comparison of one tensor of the split with the same tensor of the whole model."""

    name: str
    segment: int
    """Index of the segment that produced it; -1 for an input that is also an output."""
    is_output: bool
    """True for the model's outputs, False for a boundary tensor."""
    max_abs: float
    """Largest difference; infinite where shapes differ or only one value has a NaN."""
    max_rel: float
    """`max_abs` relative to the largest magnitude in the reference."""
    worst: float
    """Largest difference relative to the tolerance at that element; above 1 is wrong."""
    dtype: str = "float32"
    device: str = ""
    """Id of the device that produced it; empty for an input that is also an output."""
    where: tuple[int, ...] = ()
    """Index of the worst element, after the index in its list where there is one."""

    @property
    def ok(self) -> bool:
        return self.worst <= 1.0


@dataclass(frozen=True)
class Verification:
    """Result of comparing a split with the whole model."""

    checks: tuple[TensorCheck, ...]
    tolerance: float
    reference: str
    """Id of the device that ran the whole model."""
    drift_segment: int | None
    """First segment with correct inputs and wrong outputs; None where there is none."""

    @property
    def ok(self) -> bool:
        """Return whether every output of the model is within the tolerance."""
        return all(check.ok for check in self.checks if check.is_output)

    @property
    def max_abs(self) -> float:
        """Largest difference in any output."""
        return max((check.max_abs for check in self.checks if check.is_output), default=0.0)

    @property
    def max_rel(self) -> float:
        """Largest difference in any output, relative to its largest magnitude."""
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
    """Run a plan and the whole model on the same feeds, and compare the results.

    Parameters
    ----------
    plan : Plan
    model_path : path
        The model that was split.
    feeds : mapping of str to array, optional
        Default: generated from the seed (see `generate_feeds`).
    reference : str, optional
        Device that runs the whole model in float32; by default ``cpu:ort``, or ``cpu:reference`` where that cannot.
    precision : str
        Precision of the split; also selects the tolerance (`TOLERANCES`).
    tolerance : float, optional
        ``|split - whole| <= tolerance + tolerance * |whole|`` must hold for every element.
    executor, address : str
        Where the split runs, see `Session`; the whole model runs in this process.

    Raises
    ------
    UnknownDevice
        For a reference device that does not exist.
    InvalidInput
        For feeds that do not match the model.
    InvalidModel
        For a model file that cannot be read, or that is not the one that was split.
    EngineFailed
        Where the split or the whole model cannot run.
    ClusterFailed
        For a cluster that cannot be reached, or that lacks a device of the plan.
    """
    path = Path(model_path)
    devices = find_devices(reference if reference is not None else _REFERENCES)
    model = read_model(path)
    folder = gather_external_data(model, path)
    feeds = check_feeds(plan.inputs, feeds) if feeds is not None else generate_feeds(model, plan, seed)
    produced = {name for node in model.graph.node for name in node.output}
    boundary = [spec for spec in _boundary(plan) if spec.name in produced]
    device, whole = _run_whole(model, folder, devices, boundary, feeds)
    exposed = replace(plan, outputs=(*plan.outputs, *boundary))
    with Session(exposed, executor, LoadOptions(precision=precision), address=address) as session:
        split = session.run(feeds)
    allowed = TOLERANCES.get(precision, TOLERANCES["fast"]) if tolerance is None else tolerance
    producers = {spec.name: segment for segment in plan.segments for spec in segment.outputs}
    outputs = {spec.name for spec in plan.outputs}
    missing = outputs - whole.keys()
    if missing:
        raise InvalidModel(f"{path.name} has no output {min(missing)!r}", remedy="give the model that was split")
    checks = tuple(
        _check(spec, producers.get(spec.name), spec.name in outputs, split[spec.name], whole, allowed)
        for spec in (*boundary, *plan.outputs)
    )
    return Verification(checks, allowed, device.id, _drift(plan, checks))


def _boundary(plan: Plan) -> list[TensorSpec]:
    read = {spec.name for segment in plan.segments for spec in segment.inputs}
    outputs = {spec.name for spec in plan.outputs}
    return [s for segment in plan.segments for s in segment.outputs if s.name in read and s.name not in outputs]


def _run_whole(
    model: onnx.ModelProto, folder: Path | None, devices: list[Device], boundary: list[TensorSpec], feeds: Arrays
) -> tuple[Device, dict[str, np.ndarray]]:
    """Return the first device that can run the model, and its outputs."""
    for spec in boundary:
        model.graph.output.append(onnx.ValueInfoProto(name=spec.name, type=type_of(spec.dtype)))
    for device in devices:
        try:
            with closing(_load_whole(model, folder, device)) as module:
                return device, module.run(feeds)
        except (EngineFailed, UnsupportedModel):
            if device is devices[-1]:
                raise
    raise AssertionError("no device to run the whole model on")


def _load_whole(model: onnx.ModelProto, folder: Path | None, device: Device) -> Module:
    if capabilities(device).external_data_folder:
        options = LoadOptions(external_data_folder=None if folder is None else os.fspath(folder))
        return load(model.SerializeToString(), device, options)
    if folder is not None:
        whole = onnx.ModelProto()
        whole.CopyFrom(model)
        load_external_data(whole, folder / "model")
        model = whole
    return load(model.SerializeToString(), device)


def _check(
    spec: TensorSpec, producer: Segment | None, is_output: bool, split: np.ndarray, whole: Arrays, tolerance: float
) -> TensorCheck:
    actual, expected = unpack(spec.dtype, in_model_layout(spec, split)), unpack(spec.dtype, whole[spec.name])
    difference = compare(actual, expected, absolute=tolerance, relative=tolerance)
    return TensorCheck(
        spec.name,
        -1 if producer is None else producer.index,
        is_output,
        difference.max_abs,
        difference.max_rel,
        difference.worst,
        spec.dtype,
        "" if producer is None else producer.device,
        difference.where,
    )


def _drift(plan: Plan, checks: tuple[TensorCheck, ...]) -> int | None:
    wrong = {check.name for check in checks if not check.ok}
    for segment in plan.segments:
        has_wrong_output = any(spec.name in wrong for spec in segment.outputs)
        if has_wrong_output and not any(spec.name in wrong for spec in segment.inputs):
            return segment.index
    return None
