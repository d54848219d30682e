"""Contention is measured for devices on the same cores, with the other device busy all the time."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import permutations

import pytest

from trisect.profiles.costmodel.op_features import OpClass
from trisect.profiles.measuring import contention
from trisect.profiles.measuring.contention import contending_pairs, measure_contention
from trisect.profiles.measuring.operator_cases import contention_cases, small_cases
from trisect.runtime.engines import find_devices
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import EngineFailed

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
    opened, together = [], set()
    real_opened, real_times = contention._open_hosts, contention._mean_times_s

    def watched(devices, segment, folder, options, how):
        opened.append(how)
        return real_opened(devices, segment, folder, options, how)

    def timed(hosts, *rest):
        if len(hosts) > 1:
            together.update(type(host).__name__ for host in hosts.values())
        return real_times(hosts, *rest)

    monkeypatch.setattr(contention, "_open_hosts", watched)
    monkeypatch.setattr(contention, "_mean_times_s", timed)
    result = measure_contention(PAIR, LoadOptions(), executor, duration_s=0.01)
    assert [(row.device, row.beside) for row in result] == list(permutations(device.id for device in PAIR))
    assert {row.executor for row in result} == {executor}
    assert all(row.alone_s > 0 and row.together_s > 0 and row.slowdown >= 1 and row.date for row in result)
    assert opened == ["threads"] + ["processes"] * (executor == "processes")
    assert together == {"ThreadHost" if executor == "threads" else "WorkerHost"}


def test_each_device_is_timed_alone_and_both_at_once(monkeypatch):
    first, second = (device.id for device in PAIR)
    asked = []

    def times_s(hosts, segment, feeds, duration_s):
        asked.append((tuple(hosts), duration_s))
        return {device: 1.0 if len(hosts) == 1 else hosts[device] for device in hosts}

    @contextmanager
    def opened(*_):
        yield {first: 3.0, second: 1.5}

    monkeypatch.setattr(contention, "_open_hosts", opened)
    monkeypatch.setattr(contention, "_mean_times_s", times_s)
    monkeypatch.setattr(contention, "contention_cases", lambda: [ONE])
    result = measure_contention(PAIR, LoadOptions(), "threads", duration_s=6.0)
    assert [(row.device, row.beside, row.slowdown) for row in result] == [(first, second, 3.0), (second, first, 1.5)]
    assert {row.alone_s for row in result} == {1.0}
    assert asked[1:4] == [((first,), 1.0), ((second,), 1.0), ((first, second), 2.0)]
    assert asked[1:] == asked[1:4] * 6


def test_hosts_run_at_once_and_the_mean_time_of_a_run_is_returned():
    ends = []

    class Counting:
        def __init__(self, other_began: threading.Event, began: threading.Event) -> None:
            self.other_began, self.began, self.runs = other_began, began, 0

        def run(self, segment, feeds):
            self.began.set()
            assert self.other_began.wait(10)  # never, if the other ran afterwards
            self.runs += 1
            time.sleep(0.001)
            ends.append(threading.get_ident())

    one, two = threading.Event(), threading.Event()
    hosts = {"a": Counting(one, two), "b": Counting(two, one)}
    start_s = time.perf_counter()
    times_s = contention._mean_times_s(hosts, None, {}, 0.05)
    elapsed_s = time.perf_counter() - start_s
    assert list(times_s) == ["a", "b"]
    for device, host in hosts.items():
        assert 0.001 <= times_s[device] <= elapsed_s / host.runs
    assert threading.get_ident() not in ends
    assert min(contention._mean_times_s(hosts, None, {}, 0.0).values()) >= 0.001  # once at least


def test_a_failure_of_one_device_is_an_error():
    class Broken:
        def run(self, segment, feeds):
            raise EngineFailed("no more memory")

    class Fine:
        def run(self, segment, feeds):
            time.sleep(0.001)

    with pytest.raises(EngineFailed, match="no more memory"):
        contention._mean_times_s({"a": Fine(), "b": Broken()}, None, {}, 60.0)
