"""A worker that is killed loses no item: each has one result, in order, with the right numbers."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import replace

import pytest

from tests.runtime.executors.faults.conftest import ONE, hosts, is_running, pid_of
from tests.runtime.pipeline import assert_right, feeds
from trisect.runtime.errors import DeviceLost, EngineFailed, InfeasibleProblem
from trisect.runtime.sessions.session import Session
from trisect.runtime.workers.messages import MapChunk


def incidents(session: Session) -> list[str]:
    return [event.kind for event in session.incidents]


@pytest.mark.parametrize("device", ["cpu:ort", "cpu:openvino"])
def test_a_worker_killed_while_idle_is_back_for_the_next_item(pipeline, device):
    with Session(pipeline, "processes", ONE) as session:
        assert_right(1, session.run(feeds(1)))
        before = pid_of(session, device)
        os.kill(before, signal.SIGKILL)
        assert_right(2, session.run(feeds(2)))
        assert pid_of(session, device) != before
        assert incidents(session) == ["fault", "restart"]
        messages = [event for event in session.trace.events if event.kind in ("fault", "restart")]
        assert [event.device for event in messages] == [device, device]
        assert_right(3, session.run(feeds(3)))
        assert [e.kind for e in session.trace.events if e.kind in ("fault", "restart")] == []


def check_stream_with_kills(pipeline, seed: int, items: int, every: int) -> None:
    rng = random.Random(seed)
    with Session(pipeline, "processes", ONE) as session:

        def source():
            for number in range(items):
                if number and number % every == 0:
                    os.kill(pid_of(session, rng.choice(["cpu:ort", "cpu:openvino"])), signal.SIGKILL)
                yield feeds(number)
                time.sleep(rng.random() * 0.004)

        count = 0
        for number, out in enumerate(session.stream(source(), window=4)):
            assert_right(number, out)
            count += 1
        assert count == items
        assert incidents(session).count("restart") >= 1
        numbers = [event.item for event in session.trace.events if event.name == "segment 2"]
        assert numbers == sorted(numbers)


def test_a_stream_survives_kills(pipeline):
    check_stream_with_kills(pipeline, 0, items=60, every=20)


@pytest.mark.slow(12)
@pytest.mark.parametrize("seed", range(12))
def test_a_long_stream_survives_many_kills(pipeline, seed):
    check_stream_with_kills(pipeline, seed, items=300, every=30)


def test_both_workers_killed_at_once(pipeline):
    with Session(pipeline, "processes", ONE) as session:
        stream = session.stream((feeds(number) for number in range(12)), window=4)
        for number, out in enumerate(stream):
            assert_right(number, out)
            if number == 3:
                for device in hosts(session):
                    os.kill(pid_of(session, device), signal.SIGKILL)


def test_a_killed_worker_is_noticed_at_once(pipeline, monkeypatch):
    """The fault is recorded before the restart begins."""
    with Session(pipeline, "processes", ONE) as session:
        session.run(feeds(0))
        host = hosts(session)["cpu:openvino"]
        os.kill(pid_of(session, "cpu:openvino"), signal.SIGSTOP)  # so that it dies in the middle of the run
        future = session.submit(feeds(1))
        while not any(queue.busy for queue in session._executor._state.loaded.queues.values() if queue.host is host):
            time.sleep(0.001)
        opened: list[float] = []
        open_host = host.open
        monkeypatch.setattr(host, "open", lambda: (opened.append(time.monotonic()), open_host())[1])
        killed = time.monotonic()
        host.kill()
        assert_right(1, future.result(60))
        assert opened
        assert opened[0] > killed


def test_without_restarts_a_dead_worker_is_a_lost_device(pipeline):
    with Session(pipeline, "processes", ONE, restarts=0) as session:
        session.run(feeds(0))
        os.kill(pid_of(session, "cpu:ort"), signal.SIGKILL)
        with pytest.raises(DeviceLost, match="cpu:ort is lost: the worker of cpu:ort is gone"):
            session.run(feeds(1))
        with pytest.raises(DeviceLost, match="cpu:ort is lost"):
            session.run(feeds(2))
        with pytest.raises(DeviceLost, match="cpu:ort is lost"):
            list(session.stream([feeds(3)], on_error="skip"))
        assert incidents(session) == ["fault"]
        assert is_running(pid_of(session, "cpu:openvino"))


def test_a_worker_that_cannot_come_back_is_a_lost_device(pipeline):
    """Its model was deleted meanwhile."""
    with Session(pipeline, "processes", ONE) as session:
        session.run(feeds(0))
        (hosts(session)["cpu:openvino"]._folder / "segment-1.onnx").unlink()
        os.kill(pid_of(session, "cpu:openvino"), signal.SIGKILL)
        with pytest.raises(DeviceLost, match="cpu:openvino is lost: segment 1"):
            session.run(feeds(1))
        assert incidents(session) == ["fault"] * 3


def moved_to(device: str):
    """A planner that places all segments on one device."""

    def replan(plan, *, without):
        assert device not in without
        segments = tuple(replace(segment, device=device) for segment in plan.segments)
        return replace(plan, segments=segments)

    return replan


def test_the_work_of_a_lost_device_moves_to_another(pipeline):
    with Session(pipeline, "processes", ONE, restarts=0, replan=moved_to("cpu:openvino")) as session:
        got = []
        for number, out in enumerate(session.stream((feeds(number) for number in range(20)), window=4)):
            assert_right(number, out)
            got.append(number)
            if number == 4:
                os.kill(pid_of(session, "cpu:ort"), signal.SIGKILL)
        assert got == list(range(20))
        assert incidents(session) == ["fault", "replan"]
        assert {segment.device for segment in session.plan.segments} == {"cpu:openvino"}
        assert {e.device for e in session.trace.events if e.kind == "compute" and e.item > 10} == {"cpu:openvino"}
        assert list(hosts(session)) == ["cpu:openvino"]
        assert_right(7, session.run(feeds(7)))


def test_a_second_loss_replans_from_the_remaining_devices(pipeline):
    """The planner receives lost devices that its plan lists, and no others."""
    lost: list[list[str]] = []

    def replan(plan, *, without):
        lost.append(list(without))
        left = tuple(device for device in plan.devices if device.id not in without)
        if not left:
            raise InfeasibleProblem("no device is left")
        return replace(plan, devices=left, segments=tuple(replace(s, device=left[0].id) for s in plan.segments))

    with Session(pipeline, "processes", ONE, restarts=0, replan=replan) as session:
        os.kill(pid_of(session, "cpu:ort"), signal.SIGKILL)
        assert_right(1, session.run(feeds(1)))
        os.kill(pid_of(session, "cpu:openvino"), signal.SIGKILL)
        with pytest.raises(DeviceLost, match=r"cpu:openvino is lost.*no device is left"):
            session.run(feeds(2))
    assert lost == [["cpu:ort"], ["cpu:openvino"]]


def test_a_constraint_that_forbids_every_new_plan_is_named(pipeline):
    def forbidden(plan, *, without):
        raise InfeasibleProblem(f"no device left for Conv_3 without {', '.join(without)}", remedy="drop the constraint")

    with Session(pipeline, "processes", ONE, restarts=0, replan=forbidden) as session:
        os.kill(pid_of(session, "cpu:ort"), signal.SIGKILL)
        futures = [session.submit(feeds(number)) for number in range(3)]
        for future in futures:
            with pytest.raises(DeviceLost, match="no device left for Conv_3 without cpu:ort; drop the constraint"):
                future.result(60)
        with pytest.raises(DeviceLost, match="no device left"):
            session.run(feeds(1))


@pytest.mark.parametrize("answer", [None, 3])
def test_a_broken_planner_is_an_error_of_the_items(pipeline, answer):
    with Session(pipeline, "processes", ONE, restarts=0, replan=lambda plan, without: answer) as session:
        os.kill(pid_of(session, "cpu:ort"), signal.SIGKILL)
        with pytest.raises(DeviceLost, match="no plan without it"):
            session.run(feeds(1))


def test_closing_in_the_middle_is_prompt_and_complete(pipeline):
    session = Session(pipeline, "processes", ONE)
    pids = [pid_of(session, device) for device in hosts(session)]
    futures = [session.submit(feeds(number)) for number in range(20)]
    session.close()
    for future in futures:
        if future.exception(60) is not None:
            with pytest.raises(EngineFailed, match="closed before this item was done"):
                future.result()
    assert not any(is_running(pid) for pid in pids)


def test_a_worker_that_cannot_see_the_memory_is_started_again(pipeline, monkeypatch):
    """The worker exits instead of sending an unsolicited reply, after which replies would match wrong requests."""
    with Session(pipeline, "processes", ONE) as session:
        worker = hosts(session)["cpu:ort"]._client
        send = worker._send

        def damaged(question, descriptors):
            if isinstance(question, MapChunk):
                question = MapChunk(question.chunk, question.size_bytes, "no-such-memory")
                descriptors = []
            send(question, descriptors)

        monkeypatch.setattr(worker, "_send", damaged)
        for number in range(4):
            assert_right(number, session.run(feeds(number)))
        assert incidents(session) == ["fault", "restart"]


def test_ctrl_c_in_the_middle_of_a_call_mixes_up_no_replies(pipeline, monkeypatch):
    with Session(pipeline, "processes", ONE) as session:
        assert_right(0, session.run(feeds(0)))
        channel = hosts(session)["cpu:openvino"]._client._channel

        def interrupted() -> bytes:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(channel, "receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                session.run(feeds(1))
        for number in range(2, 5):
            assert_right(number, session.run(feeds(number)))
