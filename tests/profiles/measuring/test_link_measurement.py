"""Links are measured at several sizes."""

from __future__ import annotations

from trisect.profiles.measuring.link_measurement import SIZES_BYTES, measure_link
from trisect.runtime.engines import find_devices

ORT, OPENVINO = find_devices("cpu:ort,cpu:openvino")


def test_links_are_measured_at_every_size():
    link = measure_link(ORT, OPENVINO)
    assert (link.source, link.target) == ("cpu:ort", "cpu:openvino")
    assert tuple(point.size_bytes for point in link.points) == SIZES_BYTES
    assert all(point.time_s > 0 for point in link.points)
