"""Telemetry is disabled: neither trisect nor the engines report what a user runs."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

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


_ADDRESS = re.compile(r'sa_family=AF_INET6?, .*?(?:inet_addr\("|inet_pton\(AF_INET6, ")([0-9a-fA-F.:]+)"')
_STRACE = shutil.which("strace")
_COMMANDS = {
    "run with processes": ["run", "plan", "--executor", "processes"],
    "run with Ray": ["run", "plan", "--executor", "ray"],
    "verify": ["verify", "plan", "--model", "{model}"],
}


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


@pytest.mark.skipif(_STRACE is None, reason="strace is not installed")
@pytest.mark.parametrize("words", _COMMANDS.values(), ids=_COMMANDS)
def test_commands_connect_to_this_machine_only_and_leave_nothing_that_others_may_change(
    words: list[str], plan_folder: Path, model: Path, tmp_path: Path
) -> None:
    if "ray" in words:
        pytest.importorskip("ray")
    assert _STRACE is not None
    home, temporary, log = tmp_path / "home", Path(tempfile.mkdtemp(prefix="t", dir="/tmp")), tmp_path / "calls"
    home.mkdir()
    shutil.copytree(plan_folder, tmp_path / "plan")
    trace = [_STRACE, "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(log)]
    command = [sys.executable, "-P", "-m", "trisect", *(word.format(model=model) for word in words)]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "ORT_DISABLE", "TRISECT_"))}
    try:
        done = subprocess.run(
            [*trace, *command], cwd=tmp_path, env=inherited | {"HOME": str(home), "TMPDIR": str(temporary)},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if "ptrace" in done.stderr.lower():
            pytest.skip(f"strace may not trace here: {done.stderr.splitlines()[0]}")
        assert done.returncode == 0, done.stderr
        addresses = set(_ADDRESS.findall(log.read_text(errors="replace")))
        assert {address for address in addresses if not _is_loopback(address)} == set()
        assert not list(temporary.iterdir())
        assert not list(home.rglob("onnxruntime.db"))
        assert not [path for path in home.rglob("*") if path.stat().st_mode & 0o022]
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
