"""Checks a split against the whole model: same feeds, every boundary tensor and output side by side.

A split can be fast and wrong: another engine rounds differently, fuses differently, or has a bug in one kernel. Looking
at the boundaries as well as at the outputs tells in which segment the answers begin to part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from .devices import Device, select
from .engines import discover, load
from .engines.base import Arrays, LoadOptions, TensorSpec
from .errors import InvalidModel
from .plan import Plan
from .session import Session
from .tensors import check_feeds, dtype_of, onnx_dtype_number

TOLERANCES: Mapping[str, float] = {"float32": 1e-3, "float16": 1e-2, "fast": 5e-2}
"""Precision asked for -> how far a value may be off, absolutely plus relatively to the reference's value."""


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
    reference: str = "cpu:ort",
    precision: str = "float32",
    tolerance: float | None = None,
    seed: int = 0,
) -> Verification:
    """Run a plan and its whole model on the same feeds, and compare.

    Parameters
    ----------
    plan : Plan
    model_path : path
        The model that was split.
    feeds : mapping of str to array, optional
        Default: generated from the seed (see `generate_feeds`).
    reference : str
        Device that runs the whole model, in float32.
    precision : str
        What the split runs in; sets the tolerance too (`TOLERANCES`).
    tolerance : float, optional
        ``|split - whole| <= tolerance + tolerance * |whole|`` must hold everywhere.

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
    """
    path = Path(model_path)
    device = select(reference, discover())[0]
    model = _read(path)
    given = check_feeds(plan.inputs, feeds) if feeds is not None else generate_feeds(model, plan, seed)
    boundary = _boundary(plan)
    extra = [spec for spec in boundary if spec.name in set(_made_in(model))]
    whole = _run_whole(model, path, device, extra, given)
    with Session(replace(plan, outputs=(*plan.outputs, *extra)), options=LoadOptions(precision=precision)) as session:
        split = session.run(given)
    allowed = TOLERANCES.get(precision, TOLERANCES["fast"]) if tolerance is None else tolerance
    makers = {spec.name: segment.index for segment in plan.segments for spec in segment.outputs}
    outputs = {spec.name for spec in plan.outputs}
    missing = outputs - whole.keys()
    if missing:
        raise InvalidModel(f"{path.name} has no output {min(missing)!r}", remedy="give the model that was split")
    checks = tuple(
        _check(name, makers.get(name, -1), name in outputs, split[name], whole[name], allowed)
        for name in (*(spec.name for spec in extra), *(spec.name for spec in plan.outputs))
    )
    return Verification(checks, allowed, device.id, _drift(plan, checks))


def generate_feeds(model: onnx.ModelProto, plan: Plan, seed: int = 0) -> dict[str, np.ndarray]:
    """Feeds that a model can compute with, the same for the same seed.

    Floats are drawn from a normal distribution; indices into a table stay within the table; other integers are 0 or 1,
    so that masks, flags and lengths make sense; symbolic dimensions take the plan's shapes, else 1.
    """
    rng = np.random.default_rng(seed)
    limits = dict(_index_limits(model))
    return {spec.name: _generate(spec, plan.shapes, limits.get(spec.name), rng) for spec in plan.inputs}


def _generate(spec: TensorSpec, sizes: Mapping[str, int], limit: int | None, rng: np.random.Generator) -> np.ndarray:
    shape = tuple(dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in spec.shape)
    dtype = dtype_of(spec.dtype)
    if dtype.kind == "O":
        return np.full(shape, "text", dtype=object)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        if int(np.prod(shape)) == 1 and limit is None:  # a length or a flag
            return np.ones(shape, dtype)
        return rng.integers(0, limit or (256 if spec.dtype == "uint8" else 2), shape).astype(dtype)
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


def _index_limits(model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """Inputs that a Gather looks up in a table of known size, with that size."""
    tables = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in tables:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            yield node.input[1], tables[node.input[0]][axis]


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # protobuf's DecodeError has no common base over its implementations
        raise InvalidModel(f"{path} is not a sound ONNX file") from error


def _boundary(plan: Plan) -> list[TensorSpec]:
    read = {spec.name for segment in plan.segments for spec in segment.inputs}
    outputs = {spec.name for spec in plan.outputs}
    return [s for segment in plan.segments for s in segment.outputs if s.name in read and s.name not in outputs]


def _made_in(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        yield from node.output


def _run_whole(
    model: onnx.ModelProto, path: Path, device: Device, extra: list[TensorSpec], feeds: Arrays
) -> dict[str, np.ndarray]:
    for spec in extra:
        model.graph.output.append(onnx.helper.make_tensor_value_info(spec.name, onnx_dtype_number(spec.dtype), None))
    folder = {"session.model_external_initializers_file_folder_path": os.fspath(path.resolve().parent)}
    options = LoadOptions(extra=folder if device.engine == "ort" else {})
    module = load(model.SerializeToString(), device, options)
    try:
        return module.run(feeds)
    finally:
        module.close()


def _check(
    name: str, segment: int, is_output: bool, split: np.ndarray, whole: np.ndarray, tolerance: float
) -> TensorCheck:
    if split.shape != whole.shape:
        return TensorCheck(name, segment, is_output, float("inf"), float("inf"), float("inf"))
    if split.dtype.kind in "OUS":
        equal = bool(np.array_equal(split.astype(str), whole.astype(str)))
        difference = 0.0 if equal else float("inf")
        return TensorCheck(name, segment, is_output, difference, difference, difference)
    got, wanted = _as_float64(split), _as_float64(whole)
    with np.errstate(invalid="ignore", over="ignore"):
        difference_of = np.abs(got - wanted)
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    difference_of = np.where(same, 0.0, np.where(np.isnan(difference_of), np.inf, difference_of))
    size = np.abs(np.where(np.isfinite(wanted), wanted, 0.0))
    max_abs = float(difference_of.max(initial=0.0))
    magnitude = float(size.max(initial=0.0))
    allowed = np.maximum(tolerance * (1.0 + size), np.finfo(np.float64).tiny)
    worst = float((difference_of / allowed).max(initial=0.0))
    return TensorCheck(name, segment, is_output, max_abs, max_abs / magnitude if magnitude else max_abs, worst)


def _as_float64(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, dtype=np.float64)


def _drift(plan: Plan, checks: tuple[TensorCheck, ...]) -> int | None:
    wrong = {check.name for check in checks if not check.ok}
    for segment in plan.segments:
        gives_wrong = any(spec.name in wrong for spec in segment.outputs)
        if gives_wrong and not any(spec.name in wrong for spec in segment.inputs):
            return segment.index
    return None
