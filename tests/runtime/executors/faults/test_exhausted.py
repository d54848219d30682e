"""Without memory, disk space or processes: a one-line error, nothing left behind, and a session that goes on."""

from __future__ import annotations

import errno
import os
import subprocess

import numpy as np
import pytest

from tests.runtime.executors.faults.conftest import ONE
from tests.runtime.pipeline import assert_right, feeds
from trisect.runtime.errors import EngineFailed, OutOfMemory, TrisectError
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import TensorSpec
from trisect.runtime.workers import shared_memory as chunks


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["posix_fallocate", "memfd_create"])
def test_full_shared_memory_costs_the_item_only(pipeline, place, monkeypatch):
    if not chunks.HAS_MEMFD:
        pytest.skip("shared memory has names here")
    big = {"x": np.full((4096, 192), 1, np.float32)}
    with Session(pipeline, "processes", ONE) as session:
        assert_right(0, session.run(feeds(0)))
        with monkeypatch.context() as patch:
            patch.setattr(os, place, full)
            with pytest.raises(OutOfMemory, match=r"no memory for a tensor of .* MB \(No space left on device\)"):
                session.run(big)
            assert_right(1, session.run(feeds(1)))  # what was shared before is still there
        assert session.run(big)["y"][0, 0] == 19


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_an_operator_that_needs_too_much_memory_fails_alone(make_plan, executor):
    """An engine that cannot allocate memory reports an error; the session goes on."""
    text = "g (int64[n] s) => (float[m] y) { y = ConstantOfShape(s) }"
    plan = make_plan([("cpu:ort", text)], [TensorSpec("s", "int64", ("n",))], [TensorSpec("y", "float32", ("m",))])
    with Session(plan, executor, ONE) as session:
        with pytest.raises(TrisectError, match="segment 0 on cpu:ort"):
            session.run({"s": np.array([1 << 60], np.int64)})
        assert session.run({"s": np.array([3], np.int64)})["y"].tolist() == [0, 0, 0]


def test_a_tensor_beyond_the_machine_is_refused_before_it_is_tried():
    with pytest.raises(OutOfMemory, match="no memory for a tensor of"):
        chunks.shared_chunk(1 << 50)
    with pytest.raises(OutOfMemory):
        chunks.private_chunk(1 << 50)


def test_a_system_that_starts_no_more_processes(pipeline, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refused)
    with pytest.raises(EngineFailed, match="a worker process cannot be started: Resource temporarily unavailable"):
        Session(pipeline, "processes", ONE)


def test_an_engine_that_breaks_on_one_item_breaks_that_item(make_plan):
    """Each error names segment, node and device, in every executor alike; the others are right."""
    first = "g (float[k,3] y) => (float[k,3] t) { t = Neg(y) }"
    second = "g (float[n,3] x, float[k,3] t) => (float[m,3] z) { z = Add(x, t) }"
    inputs = [TensorSpec("x", "float32", ("n", 3)), TensorSpec("y", "float32", ("k", 3))]
    plan = make_plan([("cpu:openvino", first), ("cpu:ort", second)], inputs, [TensorSpec("z", "float32", ("m", 3))])
    x = np.ones((2, 3), np.float32)
    items = [{"x": x, "y": np.full((rows, 3), 5, np.float32)} for rows in (2, 3, 2, 4, 2)]
    for executor in ("threads", "processes"):
        with Session(plan, executor, ONE) as session:
            outputs = list(session.stream(items, on_error="yield"))
            assert [isinstance(out, EngineFailed) for out in outputs] == [False, True, False, True, False]
            assert str(outputs[1]).startswith("segment 1 on cpu:ort (node 'node 1'): cpu:ort could not run: ")
            assert outputs[1].device == "cpu:ort"
            assert str(outputs[1]).endswith(f"could not run: {outputs[1].reason}")
            assert all((out["z"] == -4).all() for out in outputs[::2])
            assert len(list(session.stream(items, on_error="skip"))) == 3
            assert session.incidents == ()
