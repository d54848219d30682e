"""Every executor computes the same numbers for the same plan, for all dtypes and kinds of values."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import psutil
import pytest

from tests.runtime.list_plan import assert_lists_right, lists_feeds, lists_plan
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import EngineFailed, InvalidInput, UnknownDevice
from trisect.runtime.sessions import trace_recorder
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import TensorSpec
from trisect.runtime.workers import shared_memory as chunks
from trisect.runtime.workers import worker_process as process

ONE = LoadOptions(threads=1)
EXECUTORS = ["threads", "processes"]


def expected(x: np.ndarray) -> np.ndarray:
    return 2 * x * x + np.abs(x) + x


@pytest.fixture(params=EXECUTORS)
def executor(request) -> str:
    return request.param


def test_run_and_stream_match_the_formula(diamond, executor):
    with Session(diamond, executor, ONE) as session:
        for rows in (4, 0, 1, 400_000):
            x = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
            np.testing.assert_allclose(session.run({"x": x})["y"], expected(x), rtol=1e-6, atol=1e-6)
        items = [np.full((1 + index % 3, 3), index, np.float32) for index in range(60)]
        outs = list(session.stream(({"x": x} for x in items), window=4))
        for x, out in zip(items, outs, strict=True):
            np.testing.assert_array_equal(out["y"], expected(x))


def test_results_stay_what_they_were(diamond, executor):
    """Memory of a result that the caller still holds, or of feeds, must not be reused."""
    big = np.ones((200_000, 3), np.float32)
    with Session(diamond, executor, ONE) as session:
        results = [session.run({"x": big * number})["y"] for number in range(6)]
        parts = [out["y"][::1000] for out in session.stream({"x": big * number} for number in range(6))]
    for number, (whole, part) in enumerate(zip(results, parts, strict=True)):
        assert (whole == expected(np.float32(number))).all()
        assert (part == expected(np.float32(number))).all()
        whole[:] = 0  # the caller's own


def test_both_give_the_same_bits(diamond):
    x = np.random.default_rng(1).standard_normal((5000, 3)).astype(np.float32)
    result = []
    for executor in EXECUTORS:
        with Session(diamond, executor, ONE) as session:
            result.append(session.run({"x": x})["y"])
    assert result[0].tobytes() == result[1].tobytes()


@pytest.mark.parametrize(("text", "dtype", "value"), [
    ("g (string[n] x) => (string[n] y) { t = Identity(x)  y = Identity(t) }", "object",
     np.array(["a", "", "häß"], dtype=object)),
    ("g (bfloat16[n] x) => (bfloat16[n] y) { y = Identity(x) }", "bfloat16", None),
    ("g (float16[n] x) => (float16[n] y) { y = Neg(x) }", "float16", np.array([1, 2], np.float16)),
    ("g (bool[n] x) => (bool[n] y) { y = Not(x) }", "bool", np.array([True, False])),
    ("g (int64[n] x) => (int64[n] y) { y = Neg(x) }", "int64", np.array([1, 2, 3])),
    ("g (float x) => (float y) { y = Neg(x) }", "float32", np.array(3, np.float32)),
])  # fmt: skip
def test_every_kind_of_tensor_is_carried(make_plan, executor, text, dtype, value):
    import ml_dtypes

    value = np.ones(3, ml_dtypes.bfloat16) if value is None else value
    shape = ("n",) if value.ndim else ()
    plan = make_plan([("cpu:ort", text)], [TensorSpec("x", dtype, shape)], [TensorSpec("y", dtype, shape)])
    with Session(plan, executor, ONE) as session:
        for _ in range(3):  # the first of a shape goes another way than those after it
            out = session.run({"x": value})["y"]
        wanted = ~value if dtype == "bool" else value if dtype in ("object", "bfloat16") else -value
        assert out.dtype == value.dtype
        assert out.shape == value.shape
        assert out.tolist() == wanted.tolist()


def test_outputs_whose_size_depends_on_values(make_plan, executor):
    plan = make_plan(
        [("cpu:ort", "g (float[n] x) => (int64[r,m] i) { i = NonZero(x) }"),
         ("cpu:ort", "g (int64[r,m] i) => (int64[r,m] y) { y = Neg(i) }")],
        [TensorSpec("x", "float32", ("n",))], [TensorSpec("y", "int64", ("r", "m"))],
    )  # fmt: skip
    with Session(plan, executor, ONE) as session:
        for count in (0, 3, 1, 5, 5, 0):
            x = np.zeros(6, np.float32)
            x[:count] = 1
            assert session.run({"x": x})["y"].tolist() == [[-index for index in range(count)]]


def test_non_contiguous_and_read_only_feeds(diamond, executor):
    x = np.arange(24, dtype=np.float32).reshape(3, 8).T
    locked = np.ones((2, 3), np.float32)
    locked.flags.writeable = False
    with Session(diamond, executor, ONE) as session:
        np.testing.assert_array_equal(session.run({"x": x[::2]})["y"], expected(x[::2]))
        np.testing.assert_array_equal(session.run({"x": locked})["y"], expected(locked))


def test_futures_and_callbacks(diamond, executor):
    with Session(diamond, executor, ONE) as session:
        futures = [session.submit({"x": np.full((1, 3), n, np.float32)}) for n in range(20)]
        assert [future.result(20)["y"][0, 0] for future in futures] == [expected(np.float32(n)) for n in range(20)]
        again: list[Future] = []
        done = threading.Event()

        def callback(future):  # may use the session itself
            again.append(session.submit({"x": future.result()["y"]}))
            done.set()

        session.submit({"x": np.ones((1, 3), np.float32)}).add_done_callback(callback)
        assert done.wait(20)
        assert again[0].result(20)["y"][0, 0] == expected(np.float32(4))
        with pytest.raises(InvalidInput):
            session.submit({})


def test_async(diamond, executor):
    async def everything(session):
        outs = await asyncio.gather(*(session.run_async({"x": np.full((1, 3), n, np.float32)}) for n in range(8)))
        streamed = [
            out["y"][0, 0] async for out in session.astream({"x": np.full((1, 3), n, np.float32)} for n in range(8))
        ]

        async def slowly():
            for n in range(5):
                await asyncio.sleep(0)
                yield {"x": np.full((1, 3 if n != 2 else 4), n, np.float32)}

        odd = [result async for result in session.astream(slowly(), window=2, on_error="yield")]
        with pytest.raises(InvalidInput):
            async for _ in session.astream(slowly()):
                pass
        return [out["y"][0, 0] for out in outs], streamed, odd

    with Session(diamond, executor, ONE) as session:
        run, streamed, odd = asyncio.run(everything(session))
    assert run == streamed == [expected(np.float32(n)) for n in range(8)]
    assert [isinstance(result, InvalidInput) for result in odd] == [False, False, True, False, False]


def test_items_that_fail_do_not_stop_a_stream_that_goes_on(diamond, executor):
    items = [{"x": np.full((1, 3 if n % 4 != 2 else 5), n, np.float32)} for n in range(10)]
    messages: list[tuple[int, int, str]] = []
    with Session(diamond, executor, ONE) as session:
        outputs = list(session.stream(items, on_error="yield", progress=lambda *step: messages.append(step)))
        assert [isinstance(out, InvalidInput) for out in outputs] == [n % 4 == 2 for n in range(10)]
        assert [step[:2] for step in messages] == [(n + 1, 10) for n in range(10)]
        results = list(session.stream(items, on_error="skip", window=1))
        assert [out["y"][0, 0] for out in results] == [expected(np.float32(n)) for n in range(10) if n % 4 != 2]
        with pytest.raises(InvalidInput, match="on_error is 'ignore'"):
            session.stream(items, on_error="ignore")


def test_a_plan_for_devices_of_another_machine(diamond, executor):
    away = tuple(replace(d, id="gpu:openvino", kind="gpu", native="GPU.7", name="Arc") for d in diamond.devices[:1])
    segments = tuple(replace(segment, device="gpu:openvino") for segment in diamond.segments)
    plan = replace(diamond, devices=tuple(replace(d, engine="openvino") for d in away), segments=segments)
    with pytest.raises(
        UnknownDevice, match=r"made for gpu:openvino \(Arc\), which this machine does not have; split the model again"
    ):
        Session(plan, executor, ONE)


def test_workers_stay_on_their_cores(diamond):
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores and a system that pins")
    with Session(diamond, "processes", ONE) as session:
        masks = {id: os.sched_getaffinity(host.pid) for id, host in session._executor.hosts.hosts.items()}
    assert all(len(mask) == 1 for mask in masks.values())
    assert masks["cpu:ort"] != masks["cpu:openvino"]


@pytest.mark.parametrize("memory", ["named", "descriptors"])
@pytest.mark.parametrize("channel", ["loopback", "unix"])
def test_systems_without_unix_sockets_or_nameless_memory(diamond, monkeypatch, memory, channel):
    """The mechanisms of macOS and Windows, on any system."""
    if memory == "named":
        monkeypatch.setattr(chunks, "HAS_MEMFD", False)
    elif channel == "loopback":
        pytest.skip("descriptors travel over Unix sockets only")
    monkeypatch.setattr(process, "HAS_UNIX_SOCKETS", channel == "unix")
    x = np.random.default_rng(1).standard_normal((200_000, 3)).astype(np.float32)
    with Session(diamond, "processes", ONE) as session:
        outs = [out["y"] for out in session.stream([{"x": x}] * 6)]
        session._executor.hosts.hosts["cpu:ort"].kill()
        outs.append(session.run({"x": x})["y"])
    for out in outs:
        np.testing.assert_allclose(out, expected(x), rtol=1e-6, atol=1e-6)


def rss_growth(plan, executor: str, items: int) -> float:
    """Growth of all memory of this process and its workers over the last 3/4 of a stream, as a share."""
    x = np.ones((4, 3), np.float32)
    with Session(plan, executor, ONE) as session:
        me = psutil.Process()
        pids = [host.pid for host in session._executor.hosts.hosts.values()] if executor == "processes" else []
        processes = [me, *map(psutil.Process, pids)]

        def used() -> int:
            return sum(process.memory_info().rss for process in processes)

        first = fds = 0
        for number, _ in enumerate(session.stream(({"x": x} for _ in range(items)), window=4)):
            if number == items // 4:
                first, fds = used(), me.num_fds() if hasattr(me, "num_fds") else 0
        assert not hasattr(me, "num_fds") or me.num_fds() <= fds
        return used() / first - 1


def test_a_long_stream_takes_no_more_memory_than_a_short_one(diamond, executor, monkeypatch):
    monkeypatch.setattr(trace_recorder, "_EVENTS_MAX", 1000)  # full before the measurement begins
    assert rss_growth(diamond, executor, 8000 if executor == "threads" else 3000) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("items", [200_000])
def test_a_very_long_stream_is_flat(diamond, executor, items):
    assert rss_growth(diamond, executor, items) < 0.02


def test_closed_sessions_refuse(diamond, executor):
    session = Session(diamond, executor, ONE)
    session.close()
    session.close()
    for call in (session.run, session.submit):
        with pytest.raises(EngineFailed, match="closed"):
            call({"x": np.ones((1, 3), np.float32)})


def test_lists_optionals_and_strings_arrive_as_they_are(tmp_path, executor):
    plan = lists_plan(tmp_path)
    with Session(plan, executor, ONE) as session:
        for rows in (3, 1, 3, 30_000):  # the last beyond what goes along with a message
            feeds = lists_feeds(rows)
            if rows > 1000:
                feeds["s"] = [feeds["x"]] * 3
            assert_lists_right(feeds, session.run(feeds))
        items = [lists_feeds(rows) for rows in range(1, 9)]
        outs = list(session.stream(items, window=3))
        for feeds, out in zip(items, outs, strict=True):
            assert_lists_right(feeds, out)
        with pytest.raises(InvalidInput, match="element 1 is float64"):
            session.run(lists_feeds(2) | {"s": [np.zeros(2, np.float32), np.zeros(2)]})
        assert_lists_right(items[0], session.run(items[0]))
