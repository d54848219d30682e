"""An engine that crashes, hangs or takes all memory is refused by name, and a split goes on with the others."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
from onnx import parser

from tests.partitioner import small_models
from tests.partitioner.small_models import FakeCosts
from trisect.profiles.capabilities import compile_verdicts
from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.runtime import isolated_calls
from trisect.runtime.device import Device
from trisect.runtime.engines import find_devices
from trisect.runtime.errors import TrisectError
from trisect.runtime.plans.plan import Plan

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX's signals")

BROKEN, (ORT,) = Device("npu:broken", "npu", "broken", "an accelerator", engine_version="1"), find_devices("cpu:ort")
ENGINE = '''
import ctypes, os, time
from pathlib import Path
import onnx
from trisect.runtime.device import Device
from trisect.runtime.engines import find_devices
from trisect.runtime.engines.ort import OrtEngine

class BrokenEngine:
    """ONNX Runtime, but compiling one operator ends badly."""

    name, package = "broken", "broken-engine"

    def devices(self):
        return [Device("npu:broken", "npu", "broken", "an accelerator", engine_version="1")]

    def load(self, model, device, options):
        proto = onnx.load(model, load_external_data=False) if isinstance(model, Path) else onnx.load_from_string(model)
        trigger, what = os.environ["BROKEN"].split()
        if any(node.op_type == trigger for node in proto.graph.node):
            fail(what)
        return OrtEngine().load(model, find_devices("cpu:ort")[0], options)

def fail(what):
    if what == "crash":
        ctypes.string_at(0)
    if what == "hang":
        time.sleep(600)
    if what == "memory":
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 20)) * 200)
'''


@pytest.fixture(autouse=True)
def broken_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An installed package with an engine, which only the child process finds."""
    site = tmp_path / "site"
    about = site / "broken_engine-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "broken_engine.py").write_text(ENGINE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-engine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[trisect.engines]\nbroken = broken_engine:BrokenEngine\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setattr(isolated_calls, "memory_for_child_bytes", lambda: 1 << 30)
    isolated_calls.isolated_calls().close()
    yield
    isolated_calls.isolated_calls().close()


def split(folder: Path, devices: list[Device]) -> Plan:
    text = "g (float[4] x) => (float[4] y) { a = Neg(x) b = Abs(a) c = Neg(b) y = Tanh(c) }"
    onnx.save(parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {text}'), folder / "m.onnx")
    fast = FakeCosts((("npu:broken", 1e15),))
    capabilities = Capabilities(folder / "capabilities.json")
    return small_models.split(
        folder / "m.onnx", devices, fast, "roundrobin", out_folder=folder / "plan", capabilities=capabilities,
        verify=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("crash", "broken failed while it compiled this: its process ended (SIGSEGV)"),
        pytest.param(
            "memory", "broken failed while it compiled this: it took more than 1.1 GB", marks=pytest.mark.slow(5)
        ),
        pytest.param("hang", "broken failed while it compiled this: no reply within", marks=pytest.mark.slow(10)),
    ],
)
def test_the_other_device_gets_what_ends_an_engine_badly(tmp_path, monkeypatch, what, reason):
    monkeypatch.setenv("BROKEN", f"Tanh {what}")
    if what == "hang":
        monkeypatch.setattr(compile_verdicts, "_TIME_LIMIT_S", 5.0)
    plan = split(tmp_path, [ORT, BROKEN])
    assert plan.placement["Tanh_3"] == "cpu:ort"
    assert plan.placement["Abs_1"] == "npu:broken"
    assert reason in plan.explain("Tanh_3")


def test_where_no_device_is_left_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("BROKEN", "Tanh crash")
    with pytest.raises(TrisectError, match=r"Tanh_3.*npu:broken.*SIGSEGV") as caught:
        split(tmp_path, [BROKEN])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "plan").exists()
