"""Each segment of each item runs once, after what it reads, and a tensor lives no longer than it is needed."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.executors.dispatch.python_hosts import expected, item_of, loaded, plan_of
from trisect.runtime.executors import ItemResult
from trisect.runtime.executors.dispatch.in_flight_items import InFlightItems, LazyFuture
from trisect.runtime.plans.plan import Plan
from trisect.runtime.tensors.conversions import Conversion

DIAMOND = plan_of(
    [("a", ["x"], ["s", "t"]), ("a", ["s"], ["u"]), ("b", ["t"], ["v"]), ("b", ["u", "v", "t"], ["y"])], ["y"]
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Segments on three devices, each reading some of the tensors before it."""
    names = ["x"]
    segments = []
    for index in range(draw(st.integers(1, 7))):
        inputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        outputs = [f"t{index}.{number}" for number in range(draw(st.integers(1, 2)))]
        segments.append((draw(st.sampled_from("abc")), inputs, outputs))
        names += outputs
    return plan_of(segments, draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)))


def still_needed(plan: Plan, done: set[int]) -> set[str]:
    """Tensors that exist and that a segment or the caller will read, by definition."""
    made = {"x"} | {spec.name for segment in plan.segments if segment.index in done for spec in segment.outputs}
    read = {spec.name for segment in plan.segments if segment.index not in done for spec in segment.inputs}
    return made & (read | {spec.name for spec in plan.outputs})


@given(plans(), st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_items_are_computed_in_any_order_that_the_tensors_allow(plan, random):
    items, on = InFlightItems(), loaded(plan)
    waiting: list[tuple[int, int]] = []
    flying, done, peaks = {}, {}, dict.fromkeys(on.queues, 0)
    for number in range(2):
        item = item_of(number)
        ticket, ready = items.add(item, on, item.feeds)
        flying[ticket], done[ticket] = item, set()
        waiting += [(ticket, index) for index in ready]
    while waiting:
        ticket, index = waiting.pop(random.randrange(len(waiting)))
        item, segment = flying[ticket], on.graph.segments[index]
        inputs = items.inputs(ticket, on, segment)
        assert inputs is not None
        assert {spec.name for spec in segment.inputs} == set(inputs)
        run = on.queue_of[index].host.run(segment, inputs)
        waiting += [(ticket, reader) for reader in items.complete(item, segment, run, 0.0, 0.0)]
        done[ticket].add(index)
        assert items.inputs(ticket, on, segment) is None  # it does not run twice
        needed = still_needed(plan, done[ticket])
        assert needed <= set(item.tensors) <= needed | {"x"}
        for device in peaks:
            alive = sum(
                item.tensors[name].nbytes
                for item in flying.values()
                for name in item.tensors
                if name in on.graph.producers and on.graph.producers[name].device == device
            )
            assert items._live_bytes[device] == alive
            peaks[device] = max(peaks[device], alive)
    for ticket, item in flying.items():
        assert not item.remaining
        outputs = items.finish(ticket)
        wanted = expected(plan, item.feeds["x"])
        assert list(outputs) == list(wanted)
        for name, array in wanted.items():
            np.testing.assert_array_equal(outputs[name], array)
    assert not items.items
    assert not any(items._live_bytes.values())
    assert all(items.peak_bytes[device] >= peak for device, peak in peaks.items())


def run_all(items: InFlightItems, ticket: int, ready: list[int]) -> None:
    item = items.items[ticket]
    while ready:
        segment = item.loaded.graph.segments[ready.pop(0)]
        inputs = items.inputs(ticket, item.loaded, segment)
        assert inputs is not None
        run = item.loaded.queue_of[segment.index].host.run(segment, inputs)
        ready += items.complete(item, segment, run, 0.0, 0.0)


def test_a_tensor_is_transferred_to_a_device_once_and_each_segment_computes_once():
    items, item = InFlightItems(), item_of(5)
    run_all(items, *items.add(item, loaded(DIAMOND), item.feeds))
    events = [(name, kind, device, number, size) for name, kind, device, _, _, number, size in item.events]
    assert sorted(events) == sorted(
        [("segment 0", "compute", "a", 5, 16), ("segment 1", "compute", "a", 5, 8), ("segment 2", "compute", "b", 5, 8),
         ("segment 3", "compute", "b", 5, 8), ("t", "transfer", "b", 5, 8), ("u", "transfer", "b", 5, 8)]
    )  # fmt: skip


def test_conversions_of_feeds_belong_to_the_device_that_reads_them_first():
    items, item = InFlightItems(), item_of(1)
    items.add(item, loaded(DIAMOND), item.feeds)
    items.add_conversions(item, None, [Conversion("x", 3.0, 4.0, 8), Conversion("other", 3.0, 4.0, 8)], 1.0)
    items.add_conversions(item, "b", [Conversion("u", 5.0, 6.0, 4)], 1.0)
    assert item.events == [
        ("x", "convert", "a", 2.0, 3.0, 1, 8), ("other", "convert", "", 2.0, 3.0, 1, 8),
        ("u", "convert", "b", 4.0, 5.0, 1, 4),
    ]  # fmt: skip


def test_an_item_that_starts_again_under_another_plan_begins_from_its_feeds():
    items, item, old = InFlightItems(), item_of(3), loaded(DIAMOND)
    ticket, ready = items.add(item, old, item.feeds)
    segment = old.graph.segments[ready[0]]
    items.complete(item, segment, old.queue_of[0].host.run(segment, item.feeds), 0.0, 0.0)
    assert items._live_bytes["a"] == 16
    other = loaded(plan_of([("c", ["x"], ["z"]), ("c", ["z"], ["y"])], ["y"]))
    assert items.start(item, other, item.feeds) == [0]
    assert not any(items._live_bytes.values())
    assert items.inputs(ticket, old, old.graph.segments[1]) is None  # a thread of the old plan finds nothing to do
    assert (item.starts, item.attempts, set(item.tensors)) == (2, {}, {"x"})
    run_all(items, ticket, [0])
    np.testing.assert_array_equal(items.finish(ticket)["y"], item.feeds["x"] + 1)


def test_a_removed_item_leaves_nothing_and_is_removed_once():
    items, item, on = InFlightItems(), item_of(3), loaded(DIAMOND)
    ticket, _ = items.add(item, on, item.feeds)
    segment = on.graph.segments[0]
    items.complete(item, segment, on.queue_of[0].host.run(segment, item.feeds), 0.0, 0.0)
    assert items.remove(ticket) is item
    assert items.remove(ticket) is None
    assert items.inputs(ticket, on, on.graph.segments[1]) is None
    assert not any(items._live_bytes.values())
    assert items.peak_bytes["a"] == 16


def test_the_oldest_item_has_the_lowest_ticket():
    items, on = InFlightItems(), loaded(DIAMOND)
    tickets = [items.add(item, on, item.feeds)[0] for item in map(item_of, range(5))]
    assert tickets == sorted(set(tickets))


def test_a_lazy_future_gives_what_it_was_given_from_any_thread():
    done = LazyFuture()
    result = ItemResult({}, [])
    done.set_result(result)
    assert done.result() is result
    failed = LazyFuture()
    failed.set_exception(KeyError("mine"))
    with pytest.raises(KeyError, match="mine"):
        failed.result()
    later = LazyFuture()
    results: list[ItemResult] = []
    waiting = threading.Thread(target=lambda: results.append(later.result()))
    waiting.start()
    later.set_result(result)
    waiting.join(20)
    assert results == [result]
