"""The memory that a loaded model needs on a device: an affine function of its weights and tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..stored.profile_data import DeviceProfile, MemoryPoint


@dataclass(frozen=True)
class MemoryNeed:
    """Measured memory need of loaded models on a device."""

    model_bytes: float = 0.0
    """Per loaded model (segment)."""
    per_weight: float = 1.0
    """Per byte of weights; above 1 where an engine keeps a reordered copy."""
    per_tensor: float = 1.0
    """Per byte of tensors that are alive at once."""


def memory_need(profile: DeviceProfile) -> MemoryNeed | None:
    """Return the memory need of models on a device; None where it was not measured.

    Examples
    --------
    >>> points = (MemoryPoint("tiny", 0, 0, 1000), MemoryPoint("w", 10**6, 0, 2_001_000),
    ...           MemoryPoint("t", 0, 10**6, 1_501_000))
    >>> memory_need(DeviceProfile("cpu:a", "A", "1", 1e-5, 1e-6, memory=points))
    MemoryNeed(model_bytes=1000.0, per_weight=2.0, per_tensor=1.5)
    """
    if not profile.memory:
        return None
    smallest = min(profile.memory, key=lambda point: point.weights_bytes + point.tensors_bytes)
    model_bytes = float(smallest.resident_bytes)
    others = [point for point in profile.memory if point is not smallest]

    def ratio(points: list[MemoryPoint], size_bytes: Callable[[MemoryPoint], int]) -> float:
        expected = sum(map(size_bytes, points))
        grown = sum(max(0.0, point.resident_bytes - model_bytes) for point in points)
        return grown / expected if expected else 1.0

    return MemoryNeed(
        model_bytes,
        ratio([p for p in others if p.weights_bytes > p.tensors_bytes], lambda point: point.weights_bytes),
        ratio([p for p in others if p.tensors_bytes > p.weights_bytes], lambda point: point.tensors_bytes),
    )
