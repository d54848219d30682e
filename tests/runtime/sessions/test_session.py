"""A session computes what the whole model computes, in order, whatever runs beside it and whatever fails."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest

from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed, EngineMissing, InvalidInput, InvalidPlan
from trisect.runtime.executors import threads
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import TensorSpec


def expected(x: np.ndarray) -> np.ndarray:
    return 2 * x * x + np.abs(x) + x


def test_run_matches_the_formula(diamond):
    with Session(diamond) as session:
        for rows in (4, 0, 1):
            x = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
            out = session.run({"x": x})
            assert list(out) == ["y"]
            np.testing.assert_allclose(out["y"], expected(x), rtol=1e-6, atol=1e-6)


def test_results_are_the_callers_own(diamond):
    with Session(diamond) as session:
        first = session.run({"x": np.ones((1, 3), np.float32)})["y"]
        session.run({"x": np.zeros((1, 3), np.float32)})
    np.testing.assert_array_equal(first, np.full((1, 3), 4))


@pytest.mark.parametrize("window", [1, 2, 7, None])
def test_stream_keeps_the_order(diamond, window):
    items = [np.full((1 + index % 3, 3), index, np.float32) for index in range(40)]
    with Session(diamond) as session:
        results = list(session.stream(({"x": x} for x in items), window=window))
    assert len(results) == len(items)
    for x, out in zip(items, results, strict=True):
        np.testing.assert_array_equal(out["y"], expected(x))


def test_stream_reads_no_further_ahead_than_its_window(diamond):
    taken = []

    def feeds():
        for index in range(20):
            taken.append(index)
            yield {"x": np.full((1, 3), index, np.float32)}

    with Session(diamond) as session:
        stream = session.stream(feeds(), window=3)
        next(stream)
        assert len(taken) == 3
        next(stream)
        assert len(taken) == 4
        stream.close()
        np.testing.assert_array_equal(session.run({"x": np.ones((1, 3), np.float32)})["y"], np.full((1, 3), 4))


def test_items_really_overlap_on_different_devices(diamond, monkeypatch):
    """Two devices meet at a barrier: with one item at a time per session they never would."""
    barrier = threading.Barrier(2, timeout=20)
    load = threads.load

    def meeting(path, device, options):
        module = load(path, device, options)
        run = module.run

        def waiting(feeds):
            if path.name in ("segment-1.onnx", "segment-2.onnx"):
                barrier.wait()
            return run(feeds)

        monkeypatch.setattr(module, "run", waiting)
        return module

    monkeypatch.setattr(threads, "load", meeting)
    with Session(diamond) as session:
        np.testing.assert_array_equal(session.run({"x": np.ones((1, 3), np.float32)})["y"], np.full((1, 3), 4))


def test_the_trace_has_each_segment_in_order(diamond):
    with Session(diamond) as session:
        assert session.trace.events == ()
        session.run({"x": np.ones((2, 3), np.float32)})
        trace = session.trace
        assert trace.source == "measured"
        assert trace.latency_s > 0
        computed = {event.name: event for event in trace.events if event.kind == "compute"}
        assert sorted(computed) == [f"segment {index}" for index in range(4)]
        assert [computed[f"segment {i}"].device for i in range(4)] == [s.device for s in diamond.segments]
        for before, after in ((0, 1), (0, 2), (1, 3), (2, 3)):
            assert computed[f"segment {before}"].end_s <= computed[f"segment {after}"].start_s
        moved = {(event.name, event.device, event.size_bytes) for event in trace.events if event.kind == "transfer"}
        assert moved == {("b", "cpu:openvino", 24), ("l", "cpu:openvino", 24)}
        list(session.stream({"x": np.ones((2, 3), np.float32)} for _ in range(3)))
        assert {event.item for event in session.trace.events} == {0, 1, 2}
        assert session.trace.peak_bytes["cpu:ort"] >= 48


@pytest.mark.parametrize(("feeds", "message"), [
    ({}, "input 'x' is missing"),
    ({"x": np.zeros((2, 3), np.float32), "z": np.zeros(1)}, "no input 'z'"),
    ({"x": np.zeros((2, 3))}, "'x' is float64"),
    ({"x": np.zeros((2, 4), np.float32)}, r"'x' has shape \(2, 4\)"),
    ({"x": np.zeros(3, np.float32)}, r"'x' has shape \(3,\)"),
    ({"x": [[1.0, 2.0, 3.0]]}, "'x' is a list"),
    (None, "expected feeds as a dict, got a NoneType; pass a dict with arrays for x"),
    ([np.zeros((2, 3), np.float32)], "expected feeds as a dict, got a list"),
])  # fmt: skip
def test_wrong_feeds_are_refused_at_once(diamond, feeds, message):
    with Session(diamond) as session:
        with pytest.raises(InvalidInput, match=message):
            session.run(feeds)
        assert session.trace.events == ()
        with pytest.raises(InvalidInput):
            list(session.stream([feeds]))


def test_a_stream_gives_what_came_before_the_wrong_item(diamond):
    good, bad = {"x": np.ones((1, 3), np.float32)}, {"x": np.ones((1, 4), np.float32)}
    with Session(diamond) as session:
        got = []
        with pytest.raises(InvalidInput):
            got.extend(session.stream([good, good, bad, good], window=4))
        stream = session.stream([good, good, bad, good], window=4)
        assert [out["y"][0, 0] for _, out in zip(range(2), stream, strict=False)] == [4, 4]
        with pytest.raises(InvalidInput):
            next(stream)
        with pytest.raises(InvalidInput, match="window"):
            session.stream([good], window=0)


@pytest.mark.parametrize("wrong", ["4", 2.5, True, None, 0])
def test_counts_of_the_wrong_type_are_a_one_line_error(diamond, wrong):
    if wrong not in (None, 2.5):
        with pytest.raises(InvalidInput, match="timeout"):
            Session(diamond, timeout_s=wrong)
    if wrong != 0:
        with pytest.raises(InvalidInput, match="restarts"):
            Session(diamond, restarts=wrong)
    with Session(diamond) as session:
        if wrong is not None:
            with pytest.raises(InvalidInput, match="window"):
                session.stream([], window=wrong)
        with pytest.raises(InvalidInput, match="micro_batch"):
            session.stream([], micro_batch=wrong)
        with pytest.raises(InvalidInput, match="expected an iterable of feeds, got a int"):
            session.stream(3)
        with pytest.raises(InvalidInput, match="expected an iterable of feeds, got a int"):
            session.astream(3)


def test_a_failing_iterable_keeps_its_own_error(diamond):
    def feeds():
        yield {"x": np.ones((1, 3), np.float32)}
        raise KeyError("mine")

    with Session(diamond) as session:
        stream = session.stream(feeds())
        assert next(stream)["y"][0, 0] == 4
        with pytest.raises(KeyError, match="mine"):
            next(stream)


@pytest.fixture
def fragile(make_plan):
    """Adds x to a y of another length: breaks in its second segment when both are not equally long."""
    first = "g (float[k,3] y) => (float[k,3] t) { t = Neg(y) }"
    second = "g (float[n,3] x, float[k,3] t) => (float[m,3] z) { z = Add(x, t) }"
    inputs = [TensorSpec("x", "float32", ("n", 3)), TensorSpec("y", "float32", ("k", 3))]
    return make_plan([("cpu:openvino", first), ("cpu:ort", second)], inputs, [TensorSpec("z", "float32", ("m", 3))])


def test_a_broken_run_names_segment_node_and_device_and_leaves_the_session_usable(fragile):
    x = np.ones((2, 3), np.float32)
    with Session(fragile) as session:
        with pytest.raises(
            EngineFailed, match=r"^segment 1 on cpu:ort \(node 'node 1'\): cpu:ort could not run: "
        ) as caught:
            session.run({"x": x, "y": np.ones((3, 3), np.float32)})
        assert "\n" not in str(caught.value)
        assert session.run({"x": x, "y": x})["z"].sum() == 0
        stream = session.stream({"x": x, "y": np.ones((rows, 3), np.float32)} for rows in (2, 3, 2))
        assert next(stream)["z"].sum() == 0
        with pytest.raises(EngineFailed):
            next(stream)


def test_a_segment_that_cannot_be_loaded_is_named(make_plan, vector):
    plan = make_plan(
        [("cpu:ort", "g (float[n,3] x) => (float[n,3] y) { y = none.Foo(x) }")], [vector("x")], [vector("y")]
    )
    with pytest.raises(EngineFailed, match=r"segment 0 on cpu:ort .*Foo"):
        Session(plan)


def test_plans_that_could_never_finish_are_refused(make_plan, vector, diamond):
    one = "g (float[n,3] b) => (float[n,3] a) { a = Neg(b) }"
    two = "g (float[n,3] a) => (float[n,3] b) { b = Neg(a) }"
    with pytest.raises(InvalidPlan, match="segments 0, 1 wait for each other"):
        Session(make_plan([("cpu:ort", one), ("cpu:ort", two)], [], [vector("a")]))
    with pytest.raises(InvalidPlan, match="segment 0 reads 'b', which no segment computes"):
        Session(make_plan([("cpu:ort", one)], [], [vector("a")]))
    with pytest.raises(InvalidPlan, match="no segment computes the output 'c'"):
        Session(make_plan([("cpu:ort", one)], [vector("b")], [vector("c")]))
    with pytest.raises(InvalidPlan, match="which the plan does not list"):
        Session(replace(diamond, devices=diamond.devices[:1]))


def test_a_device_whose_engine_is_not_here_is_named(diamond):
    elsewhere = tuple(replace(d, engine="absent") if d.id == "cpu:ort" else d for d in diamond.devices)
    with pytest.raises(EngineMissing, match=r"segment 0 on cpu:ort .*'absent'"):
        Session(replace(diamond, devices=elsewhere))


def test_an_unknown_executor_is_named(diamond):
    with pytest.raises(InvalidInput, match="no executor 'magic'; use one of processes, ray, threads"):
        Session(diamond, executor="magic")


def test_a_closed_session_says_so_and_stops_its_threads(diamond):
    before = set(threading.enumerate())
    session = Session(diamond)
    started = set(threading.enumerate()) - before
    assert {thread.name for thread in started} == {"trisect cpu:ort", "trisect cpu:openvino"}
    session.close()
    session.close()
    assert not any(thread.is_alive() for thread in started)
    with pytest.raises(EngineFailed, match="closed"):
        session.run({"x": np.ones((1, 3), np.float32)})


def test_inputs_may_pass_straight_to_the_outputs(make_plan, vector):
    plan = make_plan(
        [("cpu:ort", "g (float[n,3] x) => (float[n,3] y) { y = Neg(x) }")], [vector("x")], [vector("x"), vector("y")]
    )
    x = np.ones((1, 3), np.float32)
    with Session(plan) as session:
        out = session.run({"x": x})
    x[:] = 5
    assert out["x"].sum() == 3
    assert out["y"].sum() == -3


def test_a_plan_of_no_segments_passes_its_inputs_on(make_plan, vector):
    with Session(make_plan([], [vector("x")], [vector("x")])) as session:
        assert session.run({"x": np.ones((1, 3), np.float32)})["x"].sum() == 3


def test_a_tensor_is_freed_after_its_last_reader(make_plan, vector, monkeypatch):
    """In a chain of four, the first segment's tensor is gone when the last segment runs."""
    names = ["x", "a", "b", "c", "y"]
    parts = [
        ("cpu:ort", f"g (float[n,3] {i}) => (float[n,3] {o}) {{ {o} = Neg({i}) }}")
        for i, o in itertools.pairwise(names)
    ]
    alive: list[bool] = []
    made: list[weakref.ref] = []
    load = threads.load

    def watching(path, device, options):
        module = load(path, device, options)
        run = module.run

        def watched(feeds):
            gc.collect()
            if path.name == "segment-3.onnx":
                alive.append(made[0]() is not None)
            out = run(feeds)
            if path.name == "segment-0.onnx":
                made.append(weakref.ref(out["a"]))
            return out

        monkeypatch.setattr(module, "run", watched)
        return module

    monkeypatch.setattr(threads, "load", watching)
    with Session(make_plan(parts, [vector("x")], [vector("y")])) as session:
        session.run({"x": np.ones((1, 3), np.float32)})
    assert alive == [False]


def test_many_callers_may_share_a_session(diamond):
    wrong = []

    def call(value: int) -> None:
        x = np.full((2, 3), value, np.float32)
        for _ in range(20):
            if not np.array_equal(session.run({"x": x})["y"], expected(x)):
                wrong.append(value)

    with Session(diamond) as session:
        callers = [threading.Thread(target=call, args=(value,)) for value in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(30)
            assert not caller.is_alive()
    assert wrong == []


def test_devices_are_plain_data(diamond):
    assert all(isinstance(device, Device) and device.is_real for device in diamond.devices)


def test_other_objects_than_plans_and_addresses_without_ray_are_refused(diamond, tmp_path):
    with pytest.raises(InvalidInput, match=r"expected a Plan, got a \w*Path; load one from its folder: Plan.load"):
        Session(type(tmp_path)(diamond.folder))
    for executor in ("threads", "processes"):
        with pytest.raises(InvalidInput, match=f"the executor '{executor}' cannot join the cluster at head:6379"):
            Session(diamond, executor, address="head:6379")


def test_nan_is_refused_on_request(diamond):
    x = np.array([[1, np.nan, 2]], np.float32)
    with Session(diamond, nan="refuse") as session:
        with pytest.raises(InvalidInput, match="input 'x' contains NaN"):
            session.run({"x": x})
        assert session.run({"x": np.ones((1, 3), np.float32)})["y"][0, 0] == 4
    with Session(diamond) as session:
        assert np.isnan(session.run({"x": x})["y"][0, 1])
    with pytest.raises(InvalidInput, match="nan is 'maybe'"):
        Session(diamond, nan="maybe")
