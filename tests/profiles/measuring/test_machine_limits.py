"""The limits of the roofline are rates, measured in limited time."""

from __future__ import annotations

from trisect.profiles.measuring import machine_limits as machine
from trisect.profiles.measuring.machine_limits import read_bandwidth_bytes_per_s
from trisect.runtime.engines import find_devices
from trisect.runtime.engines.base import LoadOptions

ORT = find_devices("cpu:ort")[0]


def test_read_bandwidth_is_a_rate(monkeypatch):
    monkeypatch.setattr("trisect.profiles.measuring.machine_limits._ARRAY_BYTES", 1 << 20)
    assert read_bandwidth_bytes_per_s(threads=1) > 1e6


def test_the_large_product_is_skipped_on_a_slow_device(monkeypatch):
    sizes = []
    product = machine.square_matmul
    monkeypatch.setattr(machine, "square_matmul", lambda size: (sizes.append(size), product(32))[1])
    monkeypatch.setattr(machine, "_SLOW_S", 0.0)
    assert machine.peak_flops(ORT, LoadOptions()) > 0
    assert sizes == [256]
    monkeypatch.setattr(machine, "_SLOW_S", 60.0)
    machine.peak_flops(ORT, LoadOptions())
    assert sizes == [256, 256, 1024]
