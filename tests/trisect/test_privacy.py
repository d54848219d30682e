"""Telemetry is disabled: neither trisect nor the engines report what a user runs."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import trisect
trisect.devices("cpu:openvino")
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__)
"""


def test_openvino_sends_nothing_when_it_is_imported() -> None:
    run = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
