"""Copies of tensors into another form are in the trace with their bytes; tensors passed by reference are not."""

from __future__ import annotations

import numpy as np
import pytest

from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import InvalidInput
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import TensorSpec

ONE = LoadOptions(threads=1)


def converted(session: Session) -> list[tuple[str, str, int, int]]:
    events = [event for event in session.trace.events if event.kind == "convert"]
    assert all(event.start_s <= event.end_s for event in events)
    return [(event.name, event.device, event.item, event.size_bytes) for event in events]


@pytest.fixture(params=["threads", "processes"])
def executor(request) -> str:
    return request.param


def test_a_feed_is_copied_only_where_necessary(diamond, executor):
    x = np.arange(24, dtype=np.float32).reshape(3, 8).T
    with Session(diamond, executor, ONE) as session:
        session.run({"x": np.ascontiguousarray(x)})
        assert converted(session) == []
        session.run({"x": x})
        assert converted(session) == [("x", "cpu:ort", 0, 96)]
        session.run({"x": np.ascontiguousarray(x).astype(">f4")})
        assert converted(session) == [("x", "cpu:ort", 0, 96)]
        begins = min(session.trace.events, key=lambda event: event.start_s)
        assert begins.kind == "convert"


def test_each_item_of_a_stream_has_its_own_conversions(diamond, executor):
    plain, turned = np.ones((2, 3), np.float32), np.ones((3, 2), np.float32).T
    with Session(diamond, executor, ONE) as session:
        list(session.stream([{"x": plain}, {"x": turned}, {"x": plain}, {"x": turned}], window=3))
        assert converted(session) == [("x", "cpu:ort", 1, 24), ("x", "cpu:ort", 3, 24)]
        list(session.stream([{"x": turned}] * 4, window=2, micro_batch=2))
        assert converted(session) == [("x", "cpu:ort", item, 24) for item in (0, 0, 2, 2)]


def test_a_refused_item_leaves_no_conversions(diamond):
    with Session(diamond) as session:
        with pytest.raises(InvalidInput, match="no input 'z'"):
            session.run({"x": np.ones((3, 2), np.float32).T, "z": np.ones(1)})
        with pytest.raises(InvalidInput, match="shape"):
            session.run({"x": np.ones((2, 4), ">f4")})
        session.run({"x": np.ones((2, 3), np.float32)})
        assert converted(session) == []


def test_conversions_of_an_abandoned_stream_are_in_no_later_trace(diamond):
    with Session(diamond) as session:
        stream = session.stream([{"x": np.ones((3, 2), np.float32).T}] * 5, window=2, micro_batch=2)
        next(stream)
        stream.close()
        session.run({"x": np.ones((2, 3), np.float32)})
        assert converted(session) == []


@pytest.mark.parametrize(("dtype", "number", "made"), [
    ("bfloat16", 16, {"cpu:ort": [("t", 10)], "cpu:openvino": []}),
    # Two elements share a byte in an engine, and none does in numpy.
    ("int4", 22, {"cpu:ort": [("t", 5)], "cpu:openvino": [("t", 3)]}),
])  # fmt: skip
def test_dtypes_that_engines_store_differently_are_converted(make_plan, executor, dtype, number, made):
    head = '<ir_version: 10, opset_import: ["" : 21]> g'
    plan = make_plan(
        [("cpu:ort", f"{head} (float[n] x) => ({dtype}[n] t) {{ t = Cast<to={number}>(x) }}"),
         ("cpu:openvino", f"{head} ({dtype}[n] t) => (float[n] y) {{ y = Cast<to=1>(t) }}")],
        [TensorSpec("x", "float32", ("n",))], [TensorSpec("y", "float32", ("n",))],
    )  # fmt: skip
    x = np.array([1, -2, 3, -4, 5], np.float32)
    with Session(plan, executor, ONE) as session:
        assert session.run({"x": x})["y"].tolist() == x.tolist()
        result = converted(session)
    for device in ("cpu:ort", "cpu:openvino"):
        assert [(name, size) for name, on, _, size in result if on == device] == made[device]
