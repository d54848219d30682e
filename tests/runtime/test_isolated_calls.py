"""Calls in a child process: values arrive, errors and crashes become exceptions, and the next call works."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.device import Device, Limits
from trisect.runtime.errors import InvalidInput
from trisect.runtime.isolated_calls import IsolatedCalls

DEVICE = Device("npu:x", "npu", "x", "a device", limits=Limits(("int8",), True, 4))


def described(path: Path, content: bytes, device: Device, numbers: dict[str, float]) -> tuple[str, Device, int]:
    return f"{path.name} {content!r} {numbers}", device, os.getpid()


def refuse() -> None:
    raise InvalidInput("this is wrong", remedy="do that", reason="wrong")


def wait(time_s: float) -> None:
    time.sleep(time_s)


def crash() -> None:
    os.abort()


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    process = IsolatedCalls("the trial process")
    yield process
    process.close()


def test_values_keep_their_types_and_the_process_is_reused(calls):
    text, device, pid = calls.call(described, 60.0, Path("/a/b.onnx"), b"\x00\xff", DEVICE, {"x": 0.5})
    assert (text, device) == ("b.onnx b'\\x00\\xff' {'x': 0.5}", DEVICE)
    assert pid not in (os.getpid(), 0)
    assert calls.call(described, 60.0, Path("b"), b"", DEVICE, {})[2] == pid


def test_an_error_of_the_function_is_raised_as_it_is(calls):
    with pytest.raises(InvalidInput) as caught:
        calls.call(refuse, 60.0)
    assert (str(caught.value), caught.value.reason) == ("this is wrong; do that", "wrong")


def test_after_a_crash_or_a_timeout_the_next_call_has_a_new_process(calls):
    first = calls.call(described, 60.0, Path("b"), b"", DEVICE, {})[2]
    with pytest.raises(ChildProcessFailed, match=r"^the trial process failed: its process ended \(SIGABRT\)"):
        calls.call(crash, 60.0)
    second = calls.call(described, 60.0, Path("b"), b"", DEVICE, {})[2]
    with pytest.raises(ChildProcessFailed, match=r"no reply within 0\.2 s") as caught:
        calls.call(wait, 0.2, 100.0)
    assert caught.value.timed_out
    assert len({first, second, calls.call(described, 60.0, Path("b"), b"", DEVICE, {})[2]}) == 3


def test_an_idle_process_ends_by_itself(calls, monkeypatch):
    monkeypatch.setattr("trisect.runtime.isolated_calls.IDLE_LIMIT_S", 0.05)
    calls.call(described, 60.0, Path("b"), b"", DEVICE, {})
    process = calls._process
    process._process.wait(60)
    assert calls.call(described, 60.0, Path("b"), b"", DEVICE, {})
