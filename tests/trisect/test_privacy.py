"""Nobody outside is told what a user runs: neither by us nor by the engines that we load."""

from __future__ import annotations

import subprocess
import sys

_LOOK = """
import trisect
trisect.devices("cpu:openvino")
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__)
"""


def test_openvino_sends_nothing_when_it_is_imported() -> None:
    told = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, check=True, timeout=120)
    assert told.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
