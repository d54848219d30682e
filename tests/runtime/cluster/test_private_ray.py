"""On a private Ray a plan computes what it computes in one process, also when actors die or hang."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import psutil
import pytest

from tests.runtime.cluster.real_model_plan import halves
from tests.runtime.executors.faults.conftest import shared_memory
from tests.runtime.list_plan import assert_lists_right, lists_feeds, lists_plan
from tests.runtime.pipeline import assert_right, feeds
from trisect.runtime.cluster.ray_connection import connect
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import DeviceLost, EngineFailed, InvalidInput, UnknownDevice
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import TensorSpec

pytestmark = pytest.mark.usefixtures("private_ray")
ONE = LoadOptions(threads=1)


def pid_of(session: Session, device: str) -> int:
    return int(session._executor.hosts.hosts[device].pid)


def wait_until(there: bool, pid: int) -> None:
    until_s = time.monotonic() + 60
    while psutil.pid_exists(pid) != there and time.monotonic() < until_s:
        time.sleep(0.05)


def test_its_processes_search_no_folder_of_this_one_and_other_users_cannot_enter_its_folder():
    with connect() as connection:
        search_path = connection.ray.remote(num_cpus=0)(lambda: (sys.path, sys.flags.safe_path))
        paths, is_safe = connection.ray.get(search_path.remote())
        folder = Path(connection.ray._private.worker.global_worker.node.get_session_dir_path())
        top = next(path for path in folder.parents if path.name.startswith("trisect-ray-"))
        assert top.stat().st_mode & 0o077 == 0
    assert is_safe
    assert not {"", os.getcwd(), str(Path(sys.argv[0]).resolve().parent)} & set(paths)


def test_a_diamond_gives_what_the_formula_gives(diamond):
    with Session(diamond, "ray") as session:
        for rows in (4, 0, 1, 3000):
            x = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
            np.testing.assert_allclose(session.run({"x": x})["y"], 2 * x * x + np.abs(x) + x, rtol=1e-6, atol=1e-6)
        kinds = {event.kind for event in session.trace.events}
        assert kinds == {"compute", "transfer"}


def test_threads_processes_and_ray_give_the_same_bits(pipeline):
    plan, rng = pipeline(), np.random.default_rng(7)
    items = [{"x": rng.standard_normal((64, 192)).astype(np.float32)} for _ in range(4)]
    answers = {}
    for executor in ("threads", "processes", "ray"):
        with Session(plan, executor, ONE) as session:
            answers[executor] = [out["y"].copy() for out in session.stream(items)]
    for executor in ("processes", "ray"):
        for expected, got in zip(answers["threads"], answers[executor], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_an_actor_killed_during_a_stream_loses_no_item(pipeline):
    with Session(pipeline(), "ray", ONE) as session:
        for number, outputs in enumerate(session.stream(feeds(number) for number in range(40))):
            assert_right(number, outputs)
            if number in (5, 20):
                os.kill(pid_of(session, ("cpu:openvino", "cpu:ort")[number == 20]), signal.SIGKILL)
        assert number == 39
        messages = [event.kind for event in session.trace.events if event.kind in ("fault", "restart")]
        assert messages.count("restart") == 2


def test_a_device_lost_for_good_moves_to_another(pipeline):
    plan, other = pipeline(), pipeline("cpu:ort", "cpu:ort")

    def replan(lost, *, without):
        assert tuple(without) == ("cpu:openvino",)
        return other

    with Session(plan, "ray", ONE, restarts=0, replan=replan) as session:
        for number, outputs in enumerate(session.stream(feeds(number) for number in range(20))):
            assert_right(number, outputs)
            if number == 4:
                os.kill(pid_of(session, "cpu:openvino"), signal.SIGKILL)
        assert number == 19
        assert session.plan is other
        assert "replan" in {event.kind for event in session.trace.events}


def test_without_another_plan_the_loss_is_an_error_and_the_session_closes(pipeline):
    with Session(pipeline(), "ray", ONE, restarts=0) as session:
        assert_right(1, session.run(feeds(1)))
        pid = pid_of(session, "cpu:openvino")
        os.kill(pid, signal.SIGKILL)
        wait_until(False, pid)
        with pytest.raises(DeviceLost, match="cpu:openvino"):
            session.run(feeds(1))


def test_a_hanging_actor_is_ended(pipeline):
    with Session(pipeline(), "ray", ONE, timeout_s=2.5) as session:
        assert_right(0, session.run(feeds(0)))
        pid = pid_of(session, "cpu:openvino")
        os.kill(pid, signal.SIGSTOP)
        assert_right(3, session.run(feeds(3)))
        wait_until(False, pid)
        assert pid_of(session, "cpu:openvino") != pid


def test_a_session_leaves_neither_processes_nor_memory_nor_descriptors(diamond):
    shm = shared_memory()
    x = {"x": np.ones((2000, 3), np.float32)}
    with Session(diamond, "ray") as session:
        session.run(x)
        before = len(os.listdir("/proc/self/fd"))
        pids = [pid_of(session, device) for device in ("cpu:ort", "cpu:openvino")]
    for pid in pids:
        wait_until(False, pid)
        assert not psutil.pid_exists(pid)
    assert len(os.listdir("/proc/self/fd")) < before
    assert shared_memory() <= shm
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("trisect cpu")]


def test_one_bad_item_does_not_stop_the_others(make_plan):
    text = "g (float[3] x, int64[1] k) => (float[1] y) { y = Gather(x, k) }"
    plan = make_plan(
        [("cpu:ort", text)],
        [TensorSpec("x", "float32", (3,)), TensorSpec("k", "int64", (1,))],
        [TensorSpec("y", "float32", (1,))],
    )
    items = [{"x": np.arange(3, dtype=np.float32), "k": np.array([k])} for k in (0, 7, 2)]
    with Session(plan, "ray") as session:
        good, bad, last = session.stream(items, on_error="yield")
        assert isinstance(bad, EngineFailed)
        assert "segment 0" in str(bad)
        assert "cpu:ort" in str(bad)
        assert (good["y"][0], last["y"][0]) == (0.0, 2.0)


def test_strings_and_bfloat16_are_passed(make_plan):
    specs = [TensorSpec("s", "object", (2,)), TensorSpec("b", "bfloat16", (3,))]
    parts = [
        ("cpu:ort", "g (string[2] s) => (string[2] t) { t = Identity(s) }"),
        ("cpu:ort", "g (bfloat16[3] b) => (bfloat16[3] c) { c = Identity(b) }"),
    ]
    plan = make_plan(parts, specs, [TensorSpec("t", "object", (2,)), TensorSpec("c", "bfloat16", (3,))])
    with Session(plan, "ray") as session:
        b = np.array([1, 2, 3], ml_dtypes.bfloat16)
        out = session.run({"s": np.array(["a", "bc"], object), "b": b})
    assert out["t"].tolist() == ["a", "bc"]
    assert out["c"].tolist() == b.tolist()


def test_lists_optionals_and_strings_arrive_as_they_are(tmp_path):
    with Session(lists_plan(tmp_path), "ray", ONE) as session:
        for rows in (3, 1, 3, 30_000):
            feeds = lists_feeds(rows)
            if rows > 1000:
                feeds["s"] = [feeds["x"]] * 3
            assert_lists_right(feeds, session.run(feeds))


def test_wrong_feeds_are_refused(diamond):
    with Session(diamond, "ray") as session, pytest.raises(InvalidInput, match="no input 'z'"):
        session.run({"z": np.ones((1, 3), np.float32)})


def test_another_address_is_refused_while_connected(diamond):
    with pytest.raises(InvalidInput, match="one at a time"):
        Session(diamond, "ray", address="127.0.0.1:1")


def test_a_plan_of_a_device_that_is_not_here(diamond):
    ort, openvino = diamond.devices
    gone = replace(openvino, id="npu:qnn", kind="npu", engine="ort", native="None such")
    segments = tuple(replace(s, device="npu:qnn") if s.device == openvino.id else s for s in diamond.segments)
    with pytest.raises((UnknownDevice, EngineFailed), match="npu:qnn"):
        Session(replace(diamond, devices=(ort, gone), segments=segments), "ray")


def test_a_session_opened_by_a_thread_that_ended_goes_on(diamond):
    opened = []
    thread = threading.Thread(target=lambda: opened.append(Session(diamond, "ray")))
    thread.start()
    thread.join()
    with opened[0] as session:
        time.sleep(1.0)
        assert session.run({"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[4.0, 4.0, 4.0]]


def test_a_real_model_gives_the_same_bits_everywhere(models: Path, tmp_path: Path):
    path = models / "ch_ppocr_mobile_v2.0_cls_infer.onnx"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {models}")
    plan = halves(path, {"x.0": 1, "x.2": 48, "x.3": 192}, tmp_path / "plan")
    x = np.random.default_rng(0).standard_normal((1, 3, 48, 192)).astype(np.float32)
    answers = []
    for executor in ("threads", "processes", "ray"):
        with Session(plan, executor, ONE) as session:
            answers.append({name: array.copy() for name, array in session.run({"x": x}).items()})
    for other in answers[1:]:
        for name, array in answers[0].items():
            np.testing.assert_array_equal(other[name], array)
