"""Segments are queued for their devices, the oldest item first, and incidents are counted however many there are."""

from __future__ import annotations

import pytest

from tests.runtime.executors.dispatch.python_hosts import item_of, plan_of, state_of
from trisect.runtime.errors import DeviceLost, EngineFailed
from trisect.runtime.executors import ExecutorSettings
from trisect.runtime.executors.dispatch import dispatcher_state
from trisect.runtime.executors.dispatch.dispatcher_state import SegmentTask

PLAN = plan_of([("a", ["x"], ["s"]), ("b", ["x"], ["t"]), ("a", ["s", "t"], ["y"])], ["y"])


def test_a_device_takes_the_segments_of_the_oldest_item_first():
    state = state_of(ExecutorSettings(), PLAN)
    queue = state.loaded.queues["a"]
    with state.lock:
        for ticket, segment in [(3, 0), (1, 2), (2, 0), (1, 0), (3, 2)]:
            assert state.enqueue_locked(state.loaded, ticket, [segment], by_caller=False) is None
        assert [queue.pop() for _ in range(5)] == [(1, 0), (1, 2), (2, 0), (3, 0), (3, 2)]


def test_a_caller_gets_one_segment_of_an_idle_device():
    state = state_of(ExecutorSettings(), PLAN)
    a, b = state.loaded.queues["a"], state.loaded.queues["b"]
    with state.lock:
        assert state.enqueue_locked(state.loaded, 1, [0, 1], by_caller=True) == SegmentTask(state.loaded, 1, 0)
        assert (a.busy, a.ready, b.busy, b.ready) == (True, [], False, [(1, 1)])
        assert state.enqueue_locked(state.loaded, 2, [0, 1], by_caller=True) is None  # one is busy, one has work
        assert (a.ready, b.ready) == ([(2, 0)], [(1, 1), (2, 1)])
        a.release()
        assert not a.idle  # the queued segment comes first


@pytest.mark.parametrize("attribute", ["stopping", "lost", "lost_run"])
def test_no_caller_gets_a_device_that_cannot_run(attribute):
    state = state_of(ExecutorSettings(), PLAN)
    setattr(state.loaded.queues["a"], attribute, DeviceLost("gone"))
    with state.lock:
        assert state.enqueue_locked(state.loaded, 1, [0], by_caller=True) is None


@pytest.mark.parametrize(("can_kill", "timeout_s", "runs"), [
    (True, 1.0, True), (True, None, True), (False, None, True), (False, 1.0, False),
])  # fmt: skip
def test_a_callers_thread_runs_nothing_that_could_hang_without_end(can_kill, timeout_s, runs):
    state = state_of(ExecutorSettings(timeout_s=timeout_s), PLAN, can_kill=can_kill)
    with state.lock:
        assert (state.enqueue_locked(state.loaded, 1, [0], by_caller=True) is not None) == runs


def test_items_are_accepted_until_the_session_is_closed_or_a_device_lost():
    state = state_of(ExecutorSettings(), PLAN)
    state.check_accepts_items()
    queue = state.loaded.queues["b"]
    queue.lost = DeviceLost("b is lost", remedy="plug it in", device="b")
    with pytest.raises(DeviceLost, match="b is lost; plug it in") as caught:
        state.check_accepts_items()
    assert caught.value.device == "b"
    assert caught.value is not queue.lost  # a traceback of its own for each caller
    state.loaded.replacing = True
    state.check_accepts_items()  # they run under the plan that is being made
    state.closed = True
    with pytest.raises(EngineFailed, match="the session is closed"):
        state.check_accepts_items()


def test_a_failed_item_frees_its_device():
    state = state_of(ExecutorSettings(), PLAN)
    item, queue = item_of(1), state.loaded.queues["a"]
    ticket, _ = state.items.add(item, state.loaded, item.feeds)
    queue.busy = True
    state.fail_item(queue, ticket, EngineFailed("broken"))
    state.fail_item(queue, ticket, EngineFailed("again"))  # another of its segments failed too
    assert str(item.future.exception()) == "broken"
    assert queue.idle


def test_incidents_are_counted_when_the_oldest_are_dropped(monkeypatch):
    monkeypatch.setattr(dispatcher_state, "_INCIDENTS_MAX", 5)
    state = state_of(ExecutorSettings(), PLAN)
    for number in range(4):
        state.add_incident("fault", "a", f"number {number}", number)
    assert [event.name for event in state.incidents(1)] == ["number 1", "number 2", "number 3"]
    before = state.incident_count
    for number in range(4, 11):
        state.add_incident("restart", "a", f"number {number}", number)
    assert [event.item for event in state.incidents(0)] == [6, 7, 8, 9, 10]
    assert [event.item for event in state.incidents(before)] == [6, 7, 8, 9, 10]
    assert [event.item for event in state.incidents(state.incident_count - 2)] == [9, 10]
    assert state.incidents(state.incident_count) == ()
