"""Telemetry is disabled: neither trisect nor the engines report what a user runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import trisect
trisect.devices("cpu:openvino")
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__)
"""


def test_openvino_sends_nothing_when_it_is_imported() -> None:
    run = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.strip() == "openvino.tools.ovc.telemetry_stub"


def test_onnxruntime_records_nothing_for_its_vendor(tmp_path: Path) -> None:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("XDG_") and k != "ORT_DISABLE_TELEMETRY"}
    script = "import trisect; assert trisect.devices('cpu:ort')"
    subprocess.run([sys.executable, "-c", script], env=inherited | {"HOME": str(tmp_path)}, check=True, timeout=120)
    assert not list(tmp_path.rglob("onnxruntime.db"))
