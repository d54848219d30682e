"""A worker whose run hangs is killed and restarted; a thread whose run hangs is given up with its device."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace

import pytest

from tests.runtime.executors.faults.conftest import ONE, pid_of
from tests.runtime.pipeline import assert_right, feeds
from trisect.runtime.errors import DeviceLost, InvalidInput
from trisect.runtime.executors import threads
from trisect.runtime.sessions.session import Session


def test_a_worker_that_hangs_is_replaced(pipeline):
    with Session(pipeline, "processes", ONE, timeout_s=2.5) as session:
        assert_right(0, session.run(feeds(0)))
        os.kill(pid_of(session, "cpu:openvino"), signal.SIGSTOP)
        assert_right(1, session.run(feeds(1)))
        assert [event.kind for event in session.incidents] == ["fault", "restart"]
        assert "segment 1 on cpu:openvino (node 'node 1') did not finish within 2.5 s" in session.incidents[0].name


@pytest.fixture
def stuck(monkeypatch):
    """Makes one segment wait without end once the event is set."""
    gate, hang = threading.Event(), threading.Event()
    load = threads.load

    def loading(path, device, options):
        module = load(path, device, options)
        run = module.run

        def running(value):
            if hang.is_set() and path.name == "segment-1.onnx" and device.id == "cpu:openvino":
                gate.wait(60)
            return run(value)

        monkeypatch.setattr(module, "run", running)
        return module

    monkeypatch.setattr(threads, "load", loading)
    yield hang
    gate.set()


def test_a_thread_that_hangs_loses_its_device(pipeline, stuck):
    with Session(pipeline, "threads", ONE, timeout_s=1.5) as session:
        assert_right(0, session.run(feeds(0)))
        stuck.set()
        with pytest.raises(DeviceLost, match=r"segment 1 on cpu:openvino .* did not finish within 1.5 s"):
            session.run(feeds(1))
        with pytest.raises(DeviceLost, match="did not finish"):
            session.run(feeds(2))


def test_the_work_of_a_hanging_thread_moves_elsewhere(pipeline, stuck):
    def elsewhere(plan, *, without):
        assert without == ["cpu:openvino"]
        return replace(plan, segments=tuple(replace(segment, device="cpu:ort") for segment in plan.segments))

    with Session(pipeline, "threads", ONE, timeout_s=1.5, replan=elsewhere) as session:
        for number, out in enumerate(session.stream((feeds(number) for number in range(8)), window=3)):
            assert_right(number, out)
            if number == 2:
                stuck.set()
        assert number == 7
        assert [event.kind for event in session.incidents] == ["fault", "replan"]


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_invalid_timeouts_are_refused(pipeline, timeout_s):
    with pytest.raises(InvalidInput, match="timeout"):
        Session(pipeline, timeout_s=timeout_s)
