"""Sessions keep callers off the cores of engines' helper threads, and respect cores that the user has chosen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trisect.runtime import core_affinity
from trisect.runtime.core_affinity import CoreAffinity, assign_cores, cores
from trisect.runtime.engines import find_devices, load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.sessions.session import Session

ALL = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
pytestmark = pytest.mark.skipif(not ALL, reason="this system lets no process say where its threads run")
several = pytest.mark.skipif(len(cores()) < 2, reason="there is one core")

MASKS = """
import json, os, sys, time
from pathlib import Path
os.sched_setaffinity(0, json.loads(sys.argv[3]))
import onnxruntime, trisect.runtime.engines as engines
from trisect.runtime.engines.base import LoadOptions
(device,) = engines.find_devices("cpu:ort")  # whatever else this starts is running now
before = set(os.listdir("/proc/self/task"))
module = engines.load(Path(sys.argv[1]), device, LoadOptions(pinned=json.loads(sys.argv[2])))
new = set(os.listdir("/proc/self/task")) - before
until_s = time.monotonic() + 60
while time.monotonic() < until_s:  # a thread moves to its cores only once it runs
    masks = [sorted(os.sched_getaffinity(int(task))) for task in new]
    if sorted(os.sched_getaffinity(0)) not in masks:
        break
    time.sleep(0.01)
print(json.dumps(masks))
"""


@pytest.fixture
def model_file(tmp_path: Path, model) -> Path:
    path = tmp_path / "neg.onnx"
    path.write_bytes(model("g (float[n] x) => (float[n] y) { y = Neg(x) }"))
    return path


@pytest.fixture
def free() -> Iterator[None]:
    """Lets this thread run on all cores, before and after a test."""
    os.sched_setaffinity(0, ALL)
    yield
    os.sched_setaffinity(0, ALL)


def helpers_of(path: Path, pinned: bool | None, mask: set[int]) -> list[list[int]]:
    """The cores of the threads that loading a model starts, in a process restricted to the cores of a mask."""
    arguments = [str(path), json.dumps(pinned), json.dumps(sorted(mask))]
    lines = subprocess.run([sys.executable, "-c", MASKS, *arguments], check=True, capture_output=True, text=True)
    return json.loads(lines.stdout)


@several
def test_helpers_have_all_cores_but_the_callers(model_file):
    physical = cores()
    assert sorted(helpers_of(model_file, True, ALL)) == sorted(list(core) for core in physical[1:])


def test_helpers_stay_on_the_cores_that_the_process_may_use(model_file):
    for core in cores():
        assert helpers_of(model_file, True, set(core)) == []  # one core is the caller's


@several
def test_a_number_of_threads_does_not_pin_them(model_file):
    (device,) = find_devices("cpu:ort")
    before = set(os.listdir("/proc/self/task"))
    module = load(model_file, device, LoadOptions(pinned=True, threads=len(cores()) + 1))
    new = set(os.listdir("/proc/self/task")) - before
    assert [os.sched_getaffinity(int(task)) for task in new] == [ALL] * len(cores())
    module.close()


@several
def test_a_caller_on_a_helpers_core_moves_away_and_keeps_its_freedom(free, monkeypatch):
    physical = cores()
    os.sched_setaffinity(0, physical[1])
    assert core_affinity._current_core() in physical[1]
    os.sched_setaffinity(0, ALL)
    masks: list[set[int]] = []
    restrict = os.sched_setaffinity
    monkeypatch.setattr(core_affinity, "_current_core", lambda: min(physical[1]))  # from where it might move by itself
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, mask: (masks.append(set(mask)), restrict(pid, mask)))
    CoreAffinity(physical).leave_helper_cores()
    assert masks == [set(physical[0]), ALL]
    assert os.sched_getaffinity(0) == ALL


@several
def test_a_caller_pinned_to_a_helpers_core_stays_there(free):
    physical = cores()
    os.sched_setaffinity(0, physical[1])
    CoreAffinity(physical).leave_helper_cores()
    assert os.sched_getaffinity(0) == set(physical[1])
    assert core_affinity._current_core() in physical[1]


@several
def test_callers_keep_off_helpers_cores_in_a_session_and_threads_stay_free(make_plan, vector, monkeypatch, free):
    """The thread that runs a segment leaves helpers' cores first: the caller, or the device's for submitted items."""
    plan = make_plan([("cpu:ort", "g (float[n,3] x) => (float[n,3] y) { y = Neg(x) }")], [vector("x")], [vector("y")])
    x = np.ones((2, 3), np.float32)
    seen: list[str] = []
    leave = CoreAffinity.leave_helper_cores

    def seen_leaving(affinity: CoreAffinity) -> None:
        seen.append(threading.current_thread().name)
        assert affinity.count == len(cores())
        leave(affinity)

    monkeypatch.setattr(CoreAffinity, "leave_helper_cores", seen_leaving)
    masks = []
    with Session(plan) as session:
        session.run({"x": x})
        assert seen == [threading.current_thread().name]
        callers = [threading.Thread(target=lambda: masks.append(session.submit({"x": x}).result())) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert len(masks) == 4
        assert seen[1:] == ["trisect cpu:ort"] * 4
        for thread in threading.enumerate():
            if thread.name.startswith("trisect"):
                assert os.sched_getaffinity(thread.native_id) == ALL
        assert os.sched_getaffinity(0) == ALL
    assert os.sched_getaffinity(0) == ALL
    seen.clear()
    with Session(plan, options=LoadOptions(pinned=False)) as session:
        session.run({"x": x})
    assert seen == []


def test_logical_processors_of_one_core_are_grouped(monkeypatch, tmp_path):
    """Two cores that run two threads each, one of which may not be used."""
    for number, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        (tmp_path / f"{number}").write_text(siblings)
    monkeypatch.setattr(core_affinity, "_SIBLINGS", f"{tmp_path}/{{}}")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    assert cores() == ((0, 2), (1,))
    (tmp_path / "0").write_text("0-1")
    assert cores() == ((0, 1), (2,))


def test_cores_are_divided_among_devices_that_work_at_the_same_time(diamond, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 6}, raising=False)
    gpu = replace(diamond.devices[0], id="gpu:x", kind="gpu")
    devices = [*diamond.devices, gpu]
    ids = [device.id for device in devices]
    assert assign_cores(devices, None, side_by_side=True) == dict(zip(ids, [(0, 1), (2, 3), ()], strict=True))
    assert assign_cores(devices, None, side_by_side=False) == dict.fromkeys(ids, ())
    assert assign_cores(devices, 1, side_by_side=False) == dict(zip(ids, [(0,), (1,), ()], strict=True))
    assert assign_cores(devices, 4, side_by_side=True) == dict.fromkeys(ids, ())
