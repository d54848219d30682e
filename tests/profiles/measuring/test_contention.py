"""Contention is measured for devices on the same cores, with the other device busy all the time."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import permutations
from typing import ClassVar

import pytest

from trisect.profiles.costmodel.op_features import OpClass
from trisect.profiles.measuring import contention
from trisect.profiles.measuring.contention import contending_pairs, measure_contention
from trisect.profiles.measuring.operator_cases import contention_cases, small_cases
from trisect.runtime.engines import find_devices
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import EngineFailed
from trisect.runtime.workers.worker_client import SegmentRun

PAIR = tuple(find_devices("cpu:ort,cpu:openvino"))
ONE = small_cases()[0]


def test_only_hardware_on_the_same_cores_contends():
    ort, openvino = PAIR
    elsewhere = replace(ort, id="edge1/cpu:ort")
    gpu, simulated = replace(ort, id="gpu:x", kind="gpu"), replace(ort, id="cpu:y", reality="simulated")
    assert contending_pairs([ort, gpu, openvino, elsewhere, simulated]) == [(ort, openvino)]


def test_compute_bound_and_memory_bound_cases_are_measured():
    assert {case.op_class for case in contention_cases()} == {OpClass.MATMUL, OpClass.MATVEC}


@pytest.mark.parametrize("executor", contention.EXECUTORS)
def test_each_device_is_timed_on_the_hosts_of_a_session(monkeypatch, executor):
    monkeypatch.setattr(contention, "contention_cases", lambda: [ONE])
    opened, beside = [], []
    real_opened, real_busy = contention._open_hosts, contention._keep_busy

    def watched(devices, segment, folder, options, how):
        opened.append(how)
        return real_opened(devices, segment, folder, options, how)

    def busy(host, segment, feeds):
        beside.append(type(host).__name__)
        return real_busy(host, segment, feeds)

    monkeypatch.setattr(contention, "_open_hosts", watched)
    monkeypatch.setattr(contention, "_keep_busy", busy)
    result = measure_contention(PAIR, LoadOptions(), executor, duration_s=0.01)
    assert [(row.device, row.beside) for row in result] == list(permutations(device.id for device in PAIR))
    assert {row.executor for row in result} == {executor}
    assert all(row.alone_s > 0 and row.together_s > 0 and row.slowdown >= 1 and row.date for row in result)
    assert opened == ["threads"] + ["processes"] * (executor == "processes")
    assert set(beside) == {"ThreadHost" if executor == "threads" else "WorkerHost"}


class Sharer:
    """A device that takes one second alone, and longer beside others."""

    at_work: ClassVar[set[str]] = set()

    def __init__(self, name: str, beside_s: float) -> None:
        self.name = name
        self.beside_s = beside_s

    def run(self, segment, feeds):
        return SegmentRun({}, 0.0, self.beside_s if self.at_work - {self.name} else 1.0)


def test_contention_is_recorded_for_the_slowed_device_only(monkeypatch):
    first, second = (device.id for device in PAIR)

    @contextmanager
    def opened(*_):
        yield {first: Sharer(first, 3.0), second: Sharer(second, 1.5)}

    @contextmanager
    def busy(host, segment, feeds):
        Sharer.at_work.add(host.name)
        yield
        Sharer.at_work.discard(host.name)

    monkeypatch.setattr(contention, "_open_hosts", opened)
    monkeypatch.setattr(contention, "_keep_busy", busy)
    result = measure_contention(PAIR, LoadOptions(), "threads", duration_s=0.0)
    assert {(row.device, row.beside, row.slowdown) for row in result} == {(first, second, 3.0), (second, first, 1.5)}
    assert {row.alone_s for row in result} == {1.0}


def test_the_other_device_is_busy_all_the_time():
    runs = []

    class Counting:
        def run(self, segment, feeds):
            runs.append(threading.get_ident())
            time.sleep(0)

    with contention._keep_busy(Counting(), None, {}):
        assert runs  # it has begun before anything is timed
        before = len(runs)
        while len(runs) < before + 3:
            time.sleep(0.001)
    ended = len(runs)
    time.sleep(0.01)
    assert len(runs) == ended
    assert threading.get_ident() not in runs


def test_a_failure_of_the_busy_device_is_an_error():
    class Broken:
        def run(self, segment, feeds):
            raise EngineFailed("no more memory")

    with pytest.raises(EngineFailed, match="no more memory"), contention._keep_busy(Broken(), None, {}):
        pass
