"""A pipeline that is slow enough to be hit in the middle of a run, and ways to hit it."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.executors.hosts.worker_host import WorkerHost
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import TensorSpec

SIZE = 192
ONE = LoadOptions(threads=1)


def step(source: str, target: str) -> str:
    """Some milliseconds of work whose result is easily told: the same numbers, plus 6."""
    names = [source, *(f"{target}{i}" for i in range(5)), target]
    nodes = " ".join(
        f"m{after} = MatMul({before}, unit)  {after} = Add(m{after}, one)"
        for before, after in itertools.pairwise(names)
    )
    head = f"one = Constant <value = float {{1.0}}> ()  shape = Constant <value_ints = [{SIZE}, {SIZE}]> () "
    unit = "zeros = ConstantOfShape(shape)  unit = EyeLike(zeros) "
    return f"g (float[n,{SIZE}] {source}) => (float[n,{SIZE}] {target}) {{ {head}{unit}{nodes} }}"


@pytest.fixture
def pipeline(make_plan):
    """y = x + 18 in three segments, over ONNX Runtime and OpenVINO in turn."""
    parts = [("cpu:ort", step("x", "a")), ("cpu:openvino", step("a", "b")), ("cpu:ort", step("b", "y"))]
    specs = [TensorSpec(name, "float32", ("n", SIZE)) for name in ("x", "y")]
    return make_plan(parts, [specs[0]], [specs[1]])


def feeds(number: int) -> dict[str, np.ndarray]:
    return {"x": np.full((64, SIZE), number, np.float32)}


def assert_right(number: int, outputs: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(outputs["y"], np.full((64, SIZE), number + 18, np.float32))


def hosts(session: Session) -> dict[str, WorkerHost]:
    return dict(session._executor.hosts.hosts)


def pid_of(session: Session, device: str) -> int:
    pid = hosts(session)[device].pid
    assert pid is not None
    return pid


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def ours_open() -> int:
    """How many sockets and pieces of shared memory this process has open."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            count += os.readlink(entry).startswith(("/memfd:trisect", "socket:"))
    return count


def is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "trisect.runtime.workers" in " ".join(process.cmdline())
    return False


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No file descriptor, no named shared memory and no child process outlives a test's sessions."""
    before, open_before = shared_memory(), ours_open()
    yield
    gc.collect()  # errors and the frames they hold are cycles, and hold tensors
    assert shared_memory() <= before
    assert not any(is_running(child.pid) for child in psutil.Process().children() if is_worker(child))
    assert ours_open() == open_before
