"""What becomes of a device and of its items, step by step and without threads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.runtime.executors.dispatch.python_hosts import failing, item_of, loaded, plan_of, state_of
from trisect.runtime.errors import DeviceLost, EngineFailed, InfeasibleProblem, OutOfMemory
from trisect.runtime.executors import ExecutorSettings
from trisect.runtime.executors.dispatch.device_queue import LostRun
from trisect.runtime.executors.dispatch.dispatcher_state import DispatcherState
from trisect.runtime.executors.dispatch.recovery import Recovery

PLAN = plan_of([("a", ["x"], ["s"]), ("b", ["s"], ["y"])], ["y"])
OTHER = plan_of([("b", ["x"], ["y"])], ["y"])
KILLED = DeviceLost("the worker of a is gone (SIGKILL)", device="a")


def with_items(state: DispatcherState, count: int = 2) -> list[tuple[int, object]]:
    """Items in flight whose first segment is being run or queued on device a."""
    items = []
    for number in range(count):
        item = item_of(number)
        ticket, ready = state.items.add(item, state.loaded, item.feeds)
        with state.lock:
            state.enqueue_locked(state.loaded, ticket, ready, by_caller=False)
        items.append((ticket, item))
    return items


def lose(state: DispatcherState, recovery: Recovery, ticket: int) -> None:
    """The worker of device a dies while it runs the first segment of an item."""
    queue = state.loaded.queues["a"]
    if (ticket, 0) in queue.ready:
        queue.ready.remove((ticket, 0))
    queue.busy = True
    recovery.recover(state.loaded, queue, LostRun(KILLED, ticket, 0))


def kinds(state: DispatcherState) -> list[str]:
    return [event.kind for event in state.incidents(0)]


def no_loading(plan: object) -> object:
    raise AssertionError("nothing is to be loaded")


def test_a_restarted_worker_runs_the_lost_segment_again_before_younger_items():
    state = state_of(ExecutorSettings(), PLAN)
    recovery = Recovery(state, no_loading)
    (first, item), (second, _) = with_items(state)
    lose(state, recovery, first)
    queue = state.loaded.queues["a"]
    assert queue.host.opened == 1
    assert (queue.busy, queue.lost, queue.losses) == (False, None, 1)
    assert [queue.pop() for _ in range(2)] == [(first, 0), (second, 0)]
    assert item.attempts == {0: 1}
    assert kinds(state) == ["fault", "restart"]
    assert [event.device for event in state.incidents(0)] == ["a", "a"]


def test_an_item_that_costs_two_workers_fails_and_the_device_goes_on():
    state = state_of(ExecutorSettings(restarts=9), PLAN)
    recovery = Recovery(state, no_loading)
    (first, item), (second, other) = with_items(state)
    lose(state, recovery, first)
    lose(state, recovery, first)
    error = item.future.exception()
    assert isinstance(error, DeviceLost)
    assert error.device == "a"
    assert error.message.startswith("segment 0 on a (node 'node 0'): 2 workers died of it")
    assert not other.future.done()
    assert state.loaded.queues["a"].pop() == (second, 0)
    state.check_accepts_items()


def test_restarts_count_only_failures_in_a_row():
    state = state_of(ExecutorSettings(restarts=2), PLAN, opens=failing(1))
    recovery = Recovery(state, no_loading)
    ((first, _),) = with_items(state, 1)
    lose(state, recovery, first)  # the first start fails, the second succeeds
    assert kinds(state) == ["fault", "fault", "restart"]
    assert state.loaded.queues["a"].losses == 2
    state.loaded.queues["a"].losses = 0  # as after a run
    lose(state, recovery, first)
    assert state.loaded.queues["a"].lost is None


@pytest.mark.parametrize("restarts", [0, 1, 3])
def test_a_device_that_does_not_come_back_is_lost_and_fails_the_items_that_need_it(restarts):
    state = state_of(ExecutorSettings(restarts=restarts), PLAN, opens=failing(99))
    recovery = Recovery(state, no_loading)
    (first, _), (second, past), (_, third) = with_items(state, 3)
    segment = state.loaded.graph.segments[0]  # the second item has its first segment behind it: it needs b only
    host = state.loaded.queues["a"].host
    state.loaded.queues["a"].ready.remove((second, 0))
    state.items.complete(past, segment, host.run(segment, past.feeds), 0.0, 0.0)
    lose(state, recovery, first)
    assert kinds(state) == ["fault"] * (1 + restarts)
    reason = "its model is gone from the disk; restore it" if restarts else "the worker of a is gone (SIGKILL)"
    assert str(third.future.exception()) == f"a is lost: {reason}"
    assert not past.future.done()
    assert list(state.items.items) == [second]
    assert state.loaded.queues["a"].ready == []
    with pytest.raises(DeviceLost, match="a is lost"):
        state.check_accepts_items()


def replanning(state: DispatcherState, answer: object, asked: list[tuple[str, ...]]) -> None:
    def replan(plan, *, without):
        asked.append(tuple(without))
        if isinstance(answer, Exception):
            raise answer
        return answer

    state.settings = replace(state.settings, replan=replan)


def test_items_start_again_under_a_new_plan():
    state = state_of(ExecutorSettings(restarts=0), PLAN)
    asked: list[tuple[str, ...]] = []
    replanning(state, OTHER, asked)
    old = state.loaded
    recovery = Recovery(state, lambda plan: loaded(plan, state.lock))
    (first, item), (second, other) = with_items(state)
    lose(state, recovery, first)
    assert asked == [("a",)]
    assert state.loaded is not old
    assert state.loaded.plan is OTHER
    assert state.retired == [old]
    assert all(queue.stopping for queue in old.queues.values())
    assert state.loaded.queues["b"].ready == [(first, 0), (second, 0)]
    assert [result.loaded for result in (item, other)] == [state.loaded] * 2
    assert not item.future.done()
    assert kinds(state) == ["fault", "replan"]
    state.check_accepts_items()
    assert state.items.inputs(first, old, old.graph.segments[0]) is None


def test_an_item_that_the_new_hosts_refuse_fails_alone():
    state = state_of(ExecutorSettings(restarts=0), PLAN)
    replanning(state, OTHER, [])

    def load(plan):
        new = loaded(plan, state.lock)
        admit = new.group.admit

        def picky(feeds):
            if feeds["x"][0] == 0:
                raise OutOfMemory("no memory for x")
            return admit(feeds)

        new.group.admit = picky
        return new

    (first, item), (second, other) = with_items(state)
    lose(state, Recovery(state, load), first)
    assert isinstance(item.future.exception(), OutOfMemory)
    assert not other.future.done()
    assert list(state.items.items) == [second]


@pytest.mark.parametrize(("answer", "reason"), [
    (InfeasibleProblem("no device left for Conv_3", remedy="drop the constraint"),
     "no device left for Conv_3; drop the constraint"),
    (KeyError("mine"), "KeyError: 'mine'"),
    (3, "AttributeError: 'int' object has no attribute 'inputs'"),
    (plan_of([("b", ["x"], ["z"])], ["z"]), "the new plan has other inputs or outputs"),
])  # fmt: skip
def test_without_a_usable_plan_the_items_say_why(answer, reason):
    state = state_of(ExecutorSettings(restarts=0), PLAN)
    replanning(state, answer, [])
    (first, item), (_, other) = with_items(state)
    lose(state, Recovery(state, no_loading), first)
    for result in (item, other):
        assert str(result.future.exception()) == f"a is lost: {KILLED.message}; no plan without it: {reason}"
    with pytest.raises(DeviceLost, match="a is lost"):
        state.check_accepts_items()
    assert kinds(state) == ["fault"]


def test_a_planner_hears_of_the_devices_that_its_plan_lists():
    state = state_of(ExecutorSettings(restarts=0), PLAN)
    asked: list[tuple[str, ...]] = []
    replanning(state, OTHER, asked)
    recovery = Recovery(state, lambda plan: loaded(plan, state.lock))
    ((first, item),) = with_items(state, 1)
    lose(state, recovery, first)
    queue = state.loaded.queues["b"]
    queue.busy = True
    recovery.recover(state.loaded, queue, LostRun(KILLED, first, 0))
    assert asked == [("a",), ("b",)]
    assert not item.future.done()  # the second plan is as good as the first


def late(state: DispatcherState) -> None:
    queue = state.loaded.queues["a"]
    queue.busy, queue.deadline_s, queue.running = True, 0.0, 0


def test_a_worker_that_hangs_is_killed_and_treated_as_lost():
    state = state_of(ExecutorSettings(timeout_s=1.5), PLAN)
    recovery = Recovery(state, no_loading)
    ((first, _),) = with_items(state, 1)
    state.loaded.queues["a"].ready.clear()
    late(state)
    recovery.end_hanging_runs()
    recovery.end_hanging_runs()  # it is killed once
    queue = state.loaded.queues["a"]
    assert (queue.host.killed, queue.hanging, queue.abandoned) == (1, True, False)
    lose(state, recovery, first)
    assert not queue.hanging
    assert "segment 0 on a (node 'node 0') did not finish within 1.5 s" in state.incidents(0)[0].name
    assert queue.ready == [(first, 0)]


def test_a_thread_that_hangs_is_given_up_with_its_device():
    state = state_of(ExecutorSettings(timeout_s=1.5), PLAN, can_kill=False)
    recovery = Recovery(state, no_loading)
    ((_, item),) = with_items(state, 1)
    late(state)
    recovery.end_hanging_runs()
    queue = state.loaded.queues["a"]
    assert (queue.host.killed, queue.abandoned, queue.stopping) == (0, True, True)
    assert str(item.future.exception()).startswith("segment 0 on a (node 'node 0') did not finish within 1.5 s")


def test_runs_within_their_time_are_left_alone():
    state = state_of(ExecutorSettings(timeout_s=1e6), PLAN)
    late(state)
    state.loaded.queues["a"].deadline_s = 1e12
    Recovery(state, no_loading).end_hanging_runs()
    assert state.loaded.queues["a"].host.killed == 0
    assert kinds(state) == []


def test_nothing_is_restarted_after_the_session_was_closed():
    state = state_of(ExecutorSettings(), PLAN)
    ((first, item),) = with_items(state, 1)
    state.closed = True
    lose(state, Recovery(state, no_loading), first)
    assert state.loaded.queues["a"].host.opened == 0
    assert isinstance(item.future.exception(), EngineFailed)
