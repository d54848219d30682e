"""A worker process runs segments on tensors in shared memory, and reports errors as if they had arisen here."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from tests.runtime.list_plan import assert_lists_right, lists_feeds, lists_plan
from trisect.runtime.engines import find_devices, load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import DeviceLost, EngineFailed, InvalidInput
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.tensors.feed_checks import check_feeds
from trisect.runtime.tensors.tensor_spec import TensorSpec
from trisect.runtime.workers.shared_memory import map_chunk, private_chunk, shared_chunk
from trisect.runtime.workers.tensor_pool import TensorPool
from trisect.runtime.workers.worker_client import WorkerClient
from trisect.runtime.workers.worker_process import WorkerProcess

ONE = LoadOptions(threads=1)


@pytest.fixture
def started():
    process, pool = WorkerProcess(), TensorPool(shared=True)
    yield process, pool, WorkerClient(process.channel, pool, find_devices("cpu:ort")[0])
    process.close()
    pool.close()


def segment_of(tmp_path, model, text: str, inputs: list[str], outputs: list[str]) -> tuple[Segment, object]:
    path = tmp_path / "segment.onnx"
    path.write_bytes(model(text))
    specs = [tuple(TensorSpec(name, "float32", ("n",)) for name in names) for names in (inputs, outputs)]
    return Segment(0, "cpu:ort", ("node",), *specs, path.name), path


def test_outputs_lie_in_the_pool_and_inputs_there_are_not_copied(started, tmp_path, model):
    _, pool, client = started
    segment, path = segment_of(tmp_path, model, "g (float[n] x) => (float[n] y) { y = Neg(x) }", ["x"], ["y"])
    client.load(segment, path, ONE)
    x = pool.copy(np.arange(5, dtype=np.float32))
    for _ in range(3):  # from the second run on the shapes of the outputs are known
        run = None
        live_bytes = pool.live_bytes
        run = client.run(segment, {"x": x})
        assert pool.locate(run.outputs["y"]) is not None
        assert pool.live_bytes - live_bytes == 64
        assert run.outputs["y"].tolist() == [0, -1, -2, -3, -4]
        assert run.start_s <= run.end_s
    assert client.run(segment, {"x": np.ones(3, np.float32)}).outputs["y"].tolist() == [-1, -1, -1]


def test_errors_of_the_worker_are_raised_here(started, tmp_path, model):
    _, _, client = started
    segment, path = segment_of(tmp_path, model, "g (float[n] x) => (float[n] y) { y = none.No(x) }", ["x"], ["y"])
    with pytest.raises(EngineFailed, match=r"cpu:ort cannot load segment\.onnx: .*No") as caught:
        client.load(segment, path, ONE)
    assert caught.value.device == "cpu:ort"
    path.write_bytes(model("g (float[n] x) => (float[n] y) { y = Neg(x) }"))
    client.load(segment, path, ONE)
    with pytest.raises(InvalidInput, match=r"shape \(2, 2\)"):
        client.run(segment, {"x": np.ones((2, 2), np.float32)})
    assert client.run(segment, {"x": np.ones(2, np.float32)}).outputs["y"].tolist() == [-1, -1]


def test_a_worker_that_died_is_a_lost_device(started, tmp_path, model):
    process, _, client = started
    segment, path = segment_of(tmp_path, model, "g (float[n] x) => (float[n] y) { y = Neg(x) }", ["x"], ["y"])
    client.load(segment, path, ONE)
    y = client.run(segment, {"x": np.ones(2, np.float32)}).outputs["y"]
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(DeviceLost, match="the worker of cpu:ort is gone") as caught:
        client.run(segment, {"x": np.ones(2, np.float32)})
    assert caught.value.device == "cpu:ort"
    assert y.tolist() == [-1, -1]  # what it computed is the driver's


def test_lists_and_strings_go_both_ways(started, tmp_path):
    plan = lists_plan(tmp_path)
    _, _, client = started
    feeds = lists_feeds(3)
    tensors: dict[str, object] = dict(check_feeds(plan.inputs, feeds))
    for segment in plan.segments:
        if segment.device == "cpu:ort":
            client.load(segment, tmp_path / segment.file, ONE)
            run = client.run(segment, {spec.name: tensors[spec.name] for spec in segment.inputs})
            tensors |= run.outputs
        else:
            module = load(tmp_path / segment.file, find_devices("cpu:reference")[0], ONE)
            tensors |= module.run({spec.name: tensors[spec.name] for spec in segment.inputs})
    assert_lists_right(feeds, {spec.name: tensors[spec.name] for spec in plan.outputs})


@pytest.mark.parametrize("make", [private_chunk, shared_chunk])
def test_a_chunk_holds_what_is_written_until_its_arrays_are_gone(make):
    chunk = make(1 << 16)
    chunk.reserve(0, 1 << 16)
    array = np.frombuffer(chunk.buffer, np.uint8)
    array[:] = 7
    assert array.__array_interface__["data"][0] == chunk.address
    chunk.close()
    chunk.close()
    assert (array == 7).all()


def test_a_mapped_chunk_is_the_same_memory():
    chunk = shared_chunk(1 << 16)
    descriptor = None if chunk.descriptor is None else os.dup(chunk.descriptor)
    mapped = np.frombuffer(map_chunk(1 << 16, descriptor, chunk.name), np.uint8)
    np.frombuffer(chunk.buffer, np.uint8)[3] = 9
    assert mapped[3] == 9
    chunk.close()
    assert mapped[3] == 9  # it outlives the chunk
