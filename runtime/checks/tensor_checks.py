"""Compares the tensors of a split with those of the whole model, and finds the segment where they start to differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf

import numpy as np

from ..plans.plan import Plan
from ..plans.plan_parts import Segment
from ..tensors.containers import unpack
from ..tensors.tensor_spec import Arrays, TensorSpec, in_model_layout
from ..tensors.value_difference import compare
from .tolerances import Tolerance

_STEPS_DTYPES = ("int8", "uint8")


@dataclass(frozen=True)
class TensorCheck:
    """Comparison of one tensor of the split with the same tensor of the whole model."""

    name: str
    segment: int
    """Index of the segment that produced it; -1 for an input that is also an output."""
    is_output: bool
    """True for the model's outputs, False for a boundary tensor."""
    max_abs: float
    """Largest difference; infinite where shapes or dtypes differ, or only one value has a NaN."""
    max_rel: float
    """`max_abs` relative to the largest magnitude in the reference."""
    worst: float
    """Largest difference relative to the tolerance at that element; above 1 is wrong. Infinite for integers, booleans
    and strings that differ at all."""
    dtype: str = "float32"
    device: str = ""
    """Id of the device that produced it; empty for an input that is also an output."""
    where: tuple[int, ...] = ()
    """Index of the worst element, after the index in its list where there is one."""

    @property
    def ok(self) -> bool:
        return self.worst <= 1.0

    @property
    def difference(self) -> str:
        """What differs, in a few words."""
        if isinf(self.max_abs):
            return f"{self.name!r} ({self.dtype}) has another shape or dtype, or values that are no numbers"
        kind = "an integer " if self.dtype.startswith(("int", "uint")) else ""
        at = f" at index {','.join(map(str, self.where))}" if self.where else ""
        return f"{self.name!r} is {kind}off by {self.max_abs:.4g}{at}"


@dataclass(frozen=True)
class Verification:
    """Result of comparing a split with the whole model."""

    checks: tuple[TensorCheck, ...]
    tolerance: float
    reference: str
    """Id of the device that ran the whole model."""
    drift_segment: int | None
    """First segment with correct inputs and wrong outputs; None where there is none."""
    tolerance_text: str = ""
    """What the tolerance is relative to; integers, booleans and strings have none."""

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


def compare_tensors(
    plan: Plan, boundary: Sequence[TensorSpec], split: Arrays, whole: Arrays, tolerance: Tolerance, reference: str
) -> Verification:
    """Compare the boundary and the outputs of a split with the whole model's.

    Parameters
    ----------
    boundary : sequence of TensorSpec
        Tensors that segments pass to each other.
    split, whole : mapping of str to array
        With all of these tensors and the plan's outputs.
    reference : str
        Id of the device that ran the whole model.
    """
    producers = {spec.name: segment for segment in plan.segments for spec in segment.outputs}
    outputs = {spec.name for spec in plan.outputs}
    checks = tuple(
        _check(spec, producers.get(spec.name), spec.name in outputs, split[spec.name], whole, tolerance)
        for spec in (*boundary, *plan.outputs)
    )
    return Verification(checks, tolerance.value, reference, _drift(plan, checks), str(tolerance))


def _check(
    spec: TensorSpec, producer: Segment | None, is_output: bool, split: np.ndarray, whole: Arrays, tolerance: Tolerance
) -> TensorCheck:
    actual, expected = unpack(spec.dtype, in_model_layout(spec, split)), unpack(spec.dtype, whole[spec.name])
    if tolerance.of_largest and not is_output and spec.dtype in _STEPS_DTYPES:
        # Steps of a quantisation inside the model: one more or less is rounding.
        actual, expected = (np.asarray(value).astype(np.float32) for value in (actual, expected))
    difference = compare(actual, expected, absolute=tolerance.absolute(expected), relative=tolerance.relative(expected))
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


def _drift(plan: Plan, checks: Sequence[TensorCheck]) -> int | None:
    wrong = {check.name for check in checks if not check.ok}
    for segment in plan.segments:
        has_wrong_output = any(spec.name in wrong for spec in segment.outputs)
        if has_wrong_output and not any(spec.name in wrong for spec in segment.inputs):
            return segment.index
    return None
