"""A plan on the devices of several nodes, also when one of them dies; this process runs on the head node."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import psutil
import pytest

from tests.runtime.list_plan import assert_lists_right, lists_feeds, lists_plan
from tests.runtime.pipeline import assert_right, feeds
from trisect.profiles.measuring.cluster_profile import remote_compile_failure
from trisect.runtime.cluster.cluster_nodes import cluster_devices, living_nodes
from trisect.runtime.cluster.ray_connection import connect
from trisect.runtime.cluster.transfer_probe import measure_transfers
from trisect.runtime.device import select
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import ClusterFailed, DeviceLost, EngineFailed, InvalidPlan
from trisect.runtime.executors.hosts import remote_host
from trisect.runtime.plans.plan import Plan
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import TensorSpec

pytestmark = pytest.mark.usefixtures("cluster")
ONE = LoadOptions(threads=1)
SHIPPED = "trisect-received-*"


def moved(plan: Plan, where: dict[str, str]) -> Plan:
    """The plan with each device on a node: {"cpu:ort": "edge1", ...}."""
    ids = {device.id: f"{where[device.id]}/{device.id}" if device.id in where else device.id for device in plan.devices}
    return replace(
        plan,
        devices=tuple(replace(device, id=ids[device.id]) for device in plan.devices),
        segments=tuple(replace(segment, device=ids[segment.device]) for segment in plan.segments),
    )


FAR = {"cpu:ort": "edge1", "cpu:openvino": "edge2"}
MIXED = {"cpu:ort": "head", "cpu:openvino": "edge1"}


def test_nodes_are_named_by_their_labels():
    with connect() as connection:
        result = living_nodes(connection)
        assert [(node.name, node.is_here) for node in result] == [("head", True), ("edge1", False), ("edge2", False)]
        assert result[2].resources["trisect_cpu"] == 1


def test_a_cluster_is_one_set_of_devices():
    with connect() as connection:
        everything = cluster_devices(connection)
    ids = {device.id for device in everything}
    assert ids >= {f"{node}/cpu:{engine}" for node in ("head", "edge1") for engine in ("ort", "openvino")}
    names = [device.id for device in select("edge1", everything)]
    assert names
    assert all(name.startswith("edge1/") for name in names)
    assert select("edge2/cpu", everything)[0].node == "edge2"
    assert [device.id for device in select("head/cpu:ort", everything)] == ["head/cpu:ort"]
    assert {device.local_id for device in select("cpu:ort", everything)} == {"cpu:ort"}


@pytest.mark.parametrize("where", [FAR, MIXED, {"cpu:ort": "edge1", "cpu:openvino": "edge1"}, {}])
def test_a_stream_over_nodes_is_right_and_in_order(pipeline, where):
    with Session(moved(pipeline(), where), "ray", ONE) as session:
        numbers = []
        for number, outputs in enumerate(session.stream(feeds(number) for number in range(12))):
            assert_right(number, outputs)
            numbers.append(number)
        assert numbers == list(range(12))
        spans = {(event.name, event.item): event for event in session.trace.events if event.kind == "compute"}
        for item in range(12):
            for before, after in (("segment 0", "segment 1"), ("segment 1", "segment 2")):
                # Clocks of two processes agree within a message's time, which is long on a busy machine.
                assert spans[before, item].end_s <= spans[after, item].start_s + 0.5
                assert spans[before, item].start_s < spans[after, item].end_s


def test_the_same_bits_as_in_this_process(pipeline):
    x = {"x": np.random.default_rng(3).standard_normal((64, 192)).astype(np.float32)}
    with Session(pipeline(), "threads", ONE) as session:
        expected = session.run(x)["y"].copy()
    with Session(moved(pipeline(), FAR), "ray", ONE) as session:
        np.testing.assert_array_equal(session.run(x)["y"], expected)


def test_every_kind_of_tensor_travels(make_plan):
    specs = [
        TensorSpec("s", "object", (2,)),
        TensorSpec("b", "bfloat16", (3,)),
        TensorSpec("e", "float32", ("n", 0)),
        TensorSpec("big", "float16", ("m", 512)),
        TensorSpec("scalar", "int64", ()),
    ]
    texts = ["string[2]", "bfloat16[3]", "float[n,0]", "float16[m,512]", "int64"]
    parts, outputs = [], []
    for spec, text in zip(specs, texts, strict=True):
        inner, out = f"{spec.name}1", f"{spec.name}2"
        parts.append(("cpu:ort", f"g ({text} {spec.name}) => ({text} {inner}) {{ {inner} = Identity({spec.name}) }}"))
        parts.append(("cpu:ort", f"g ({text} {inner}) => ({text} {out}) {{ {out} = Identity({inner}) }}"))
        outputs.append(replace(spec, name=out))
    plan = moved(make_plan(parts, specs, outputs), {"cpu:ort": "edge1"})
    value = {
        "s": np.array(["a", "bc"], object),
        "b": np.array([1, 2, 3], ml_dtypes.bfloat16),
        "e": np.zeros((4, 0), np.float32),
        "big": np.random.default_rng(0).standard_normal((700, 512)).astype(np.float16),
        "scalar": np.asarray(7, np.int64),
    }
    with Session(plan, "ray") as session:
        out = session.run(value)
    for name, array in value.items():
        got = out[f"{name}2"]
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        assert got.tolist() == array.tolist()
        assert got.flags.writeable  # the caller's own


@pytest.mark.parametrize("where", [
    {"cpu:ort": "edge1", "cpu:reference": "edge2"}, {"cpu:ort": "head", "cpu:reference": "edge1"},
])  # fmt: skip
def test_lists_optionals_and_strings_travel(tmp_path, where):
    with Session(moved(lists_plan(tmp_path), where), "ray", ONE) as session:
        for rows in (3, 30_000):
            feeds = lists_feeds(rows)
            if rows > 1000:
                feeds["s"] = [feeds["x"]] * 3
            out = session.run(feeds)
            assert_lists_right(feeds, out)
            for listed in (out["rows"], out["more"], out["back"]):
                assert all(one.flags.writeable for one in listed)  # the caller's own


def test_a_plan_is_copied_to_nodes_that_do_not_share_its_folder(pipeline, elsewhere, tmp_path):
    base = Path(tempfile.gettempdir())
    before = set(base.glob(SHIPPED))
    with Session(elsewhere(moved(pipeline(), FAR)), "ray", ONE) as session:
        assert_right(5, session.run(feeds(5)))
        shipped = set(base.glob(SHIPPED)) - before
        assert len(shipped) == 2  # one for each node, though both are this machine
        assert sorted(p.name for folder in shipped for p in folder.glob("*.onnx")) == [
            f"segment-{index}.onnx" for index in range(3)
        ]
    assert not any(folder.exists() for folder in shipped)


def test_a_file_that_changed_since_planning_is_refused(pipeline, elsewhere):
    plan = elsewhere(moved(pipeline(), FAR))
    wrong = tuple(replace(segment, sha256="0" * 64) for segment in plan.segments)
    with pytest.raises(
        InvalidPlan, match=r"segment-\d.onnx on node edge\d differs from the file that the plan was made with"
    ):
        Session(replace(plan, segments=wrong), "ray", ONE)


def test_a_node_that_is_not_there_is_an_error_at_once(pipeline):
    with pytest.raises(ClusterFailed, match="no node 'edge9' now; its nodes are head, edge1, edge2"):
        Session(moved(pipeline(), {"cpu:ort": "edge9"}), "ray")


def test_a_device_that_no_node_has_is_an_error_at_once(pipeline):
    plan = pipeline()
    gone = tuple(replace(d, id="npu:absent", kind="npu") if d.id == "cpu:openvino" else d for d in plan.devices)
    segments = tuple(replace(s, device="npu:absent") if s.device == "cpu:openvino" else s for s in plan.segments)
    with pytest.raises(ClusterFailed, match="no node of the cluster has npu:absent"):
        Session(replace(plan, devices=gone, segments=segments), "ray")


def test_a_declared_device_serves_one_session_at_a_time(pipeline, monkeypatch):
    plan = moved(pipeline(), {"cpu:ort": "edge2", "cpu:openvino": "edge1"})
    with Session(plan, "ray", ONE):
        monkeypatch.setattr(remote_host, "START_TIMEOUT_S", 2.0)
        with pytest.raises(ClusterFailed, match=r"edge2/cpu:ort .* trisect_cpu is in use"):
            Session(plan, "ray", ONE)
    monkeypatch.setattr(remote_host, "START_TIMEOUT_S", 60.0)
    with Session(plan, "ray", ONE) as session:
        assert_right(1, session.run(feeds(1)))


def test_errors_of_a_remote_engine_name_segment_and_node(make_plan):
    text = "g (float[3] x, int64[1] k) => (float[1] y) { y = Gather(x, k) }"
    specs = [TensorSpec("x", "float32", (3,)), TensorSpec("k", "int64", (1,))]
    plan = moved(make_plan([("cpu:ort", text)], specs, [TensorSpec("y", "float32", (1,))]), {"cpu:ort": "edge1"})
    with Session(plan, "ray") as session:
        items = [{"x": np.arange(3, dtype=np.float32), "k": np.array([k])} for k in (0, 7, 2)]
        good, bad, last = session.stream(items, on_error="yield")
    assert isinstance(bad, EngineFailed)
    assert "segment 0 on edge1/cpu:ort" in str(bad)
    assert bad.device == "edge1/cpu:ort"
    assert (good["y"][0], last["y"][0]) == (0.0, 2.0)


def test_a_remote_actor_that_dies_is_restarted(pipeline):
    with Session(moved(pipeline(), FAR), "ray", ONE) as session:
        for number, outputs in enumerate(session.stream(feeds(number) for number in range(16))):
            assert_right(number, outputs)
            if number == 4:
                session._executor.hosts.hosts["edge2/cpu:openvino"].kill()
        assert number == 15
        assert "restart" in {event.kind for event in session.trace.events}


def test_a_node_that_dies_in_the_middle_of_a_stream(cluster, pipeline):
    cluster.tell("add lost")
    plan = moved(pipeline(), {"cpu:ort": "edge1", "cpu:openvino": "lost"})
    other = moved(pipeline(), {"cpu:ort": "edge1", "cpu:openvino": "head"})
    killer = threading.Thread(target=cluster.tell, args=("kill lost",))
    with Session(plan, "ray", ONE, replan=lambda lost, *, without: other) as session:
        ends = 10_000
        for number, outputs in enumerate(session.stream(map(feeds, itertools.count()))):
            assert_right(number, outputs)
            if number == 3:
                killer.start()
            if session.plan is other:
                ends = min(ends, number + 10)
            if number == ends:
                break
        killer.join()
        assert session.plan is other
    with pytest.raises((ClusterFailed, DeviceLost), match="lost"):
        Session(plan, "ray", ONE)


def test_a_node_reports_whether_it_compiles_a_model(model):
    with connect() as connection:
        ask = remote_compile_failure(connection)
        far = next(device for device in cluster_devices(connection) if device.id == "edge1/cpu:ort")
        foreign = replace(far, name="another machine's")
        good = model("g (float[2] x) => (float[2] y) { y = Neg(x) }")
        bad = model("g (float[2] x) => (float[2] y) { y = none.Nonsense(x) }")
        for device in (far, foreign):
            assert ask(good, device) == ""
            assert "Nonsense" in ask(bad, device)


def test_transfers_are_measured_between_all_nodes_except_this_one_and_itself():
    with connect() as connection:
        among = living_nodes(connection)[:2]
        transfers = measure_transfers(connection, among, (1 << 10, 1 << 20))
    here, there = (node.name for node in among)
    assert set(transfers) == {(here, there), (there, here), (there, there)}
    assert all(len(times) == 2 and min(times) > 0 for times in transfers.values())


def name_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):  # it has ended meanwhile
        return process.name()
    return ""


def test_nothing_is_left_of_the_sessions():
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        names = [name_of(process) for process in psutil.Process().children(recursive=True)]
        left = [name for name in names if "DeviceActor" in name or "ray::PlanReceiver" in name]
        if not left:
            break
        time.sleep(0.2)
    assert not left
    assert os.getpid() not in {thread.native_id for thread in threading.enumerate() if thread.name == "trisect cpu:ort"}
