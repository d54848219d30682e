"""The memory need of a model is derived from measured models."""

from __future__ import annotations

from trisect.profiles.costmodel.memory_need import MemoryNeed, memory_need
from trisect.profiles.stored.profile_data import DeviceProfile, MemoryPoint


def test_an_unmeasured_device_has_no_memory_need():
    assert memory_need(DeviceProfile("cpu:a", "A", "1", 1e-5, 1e-6)) is None


def test_weights_of_all_operators_share_one_factor():
    points = (
        MemoryPoint("tiny", 0, 0, 100), MemoryPoint("a", 1000, 10, 1100), MemoryPoint("b", 3000, 10, 6100),
        MemoryPoint("c", 0, 500, 1600),
    )  # fmt: skip
    result = memory_need(DeviceProfile("cpu:a", "A", "1", 1e-5, 1e-6, memory=points))
    assert result == MemoryNeed(100.0, (1000 + 6000) / 4000, 3.0)
