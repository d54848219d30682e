"""Keys and values in a device's memory: rows are copied in, out and to larger buffers unchanged, and no others."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from tests.llm import tiny_llms as kit
from tests.llm.tiny_llms import TinyLlms
from trisect.llm.running.generation import LanguageSession
from trisect.llm.running.kv_cache import KvCache
from trisect.llm.running.kv_layer import KvLayer, cache_names
from trisect.llm.running.runners.chunked_runner import ChunkedRunner
from trisect.llm.running.runners.device_kv_cache import DeviceKvCache
from trisect.llm.running.runners.device_runner import DeviceRunner
from trisect.llm.running.runners.runner_loading import load_runner
from trisect.runtime.device import Device
from trisect.runtime.engines import discover
from trisect.runtime.errors import OutOfMemory

LAYERS = (KvLayer(0, kv_heads=2, head_dim=4), KvLayer(1, kv_heads=1, head_dim=8, dtype="float16"))


@pytest.fixture(scope="module")
def gpu() -> Device:
    listed = next((device for device in discover() if device.id == "gpu:webgpu"), None)
    if listed is None:
        pytest.skip("no gpu:webgpu here: it wants onnxruntime-ep-webgpu and a Vulkan driver, Mesa's lavapipe will do")
    return listed


def host_cache(filled: int, capacity: int = 10) -> KvCache:
    cache = KvCache(LAYERS, context_length=4096, capacity=capacity)
    for seed, (layer, name) in enumerate((one, name) for one in LAYERS for name in one.names):
        cache.write(name, np.random.default_rng(seed).normal(size=layer.shape(1, 5))[:, :, :filled], 0)
    cache.length = filled
    return cache


def downloaded(cache: DeviceKvCache, name: str) -> np.ndarray:
    values = np.empty(cache.buffers[name].shape, cache.buffers[name].dtype)
    cache.buffers[name].download(values)
    return values


def test_rows_go_in_grow_and_come_back(gpu: Device) -> None:
    source, cache = host_cache(5), DeviceKvCache(gpu, LAYERS, 1)
    cache.import_rows(source)
    assert (cache.length, cache.capacity) == (5, 256)
    before = cache.generation
    cache.reserve(256, 4096)
    assert cache.generation == before
    cache.reserve(257, 4096)
    assert (cache.capacity, cache.generation) == (512, before + 1)
    cache.reserve(700, 800)
    assert cache.capacity == 800
    target = host_cache(3)
    cache.export_rows(target, 3)
    assert target.length == 5
    for name in cache_names(LAYERS):
        np.testing.assert_array_equal(downloaded(cache, name)[:, :, :5], source.filled()[name])
        assert not downloaded(cache, name)[:, :, 5:].any()
        np.testing.assert_array_equal(target.filled()[name], source.filled()[name])
    cache.close()


def test_windows_cross_and_all_tokens_stay(gpu: Device) -> None:
    layers = (KvLayer(0, kv_heads=2, head_dim=4), KvLayer(1, kv_heads=1, head_dim=8, window=8))
    values = np.random.default_rng(1).normal(size=(4, 1, 2, 40, 8)).astype(np.float32)

    def source(index: int, name: str) -> np.ndarray:
        layer = layers[index // 2]
        return values[index][:, : layer.kv_heads, :, : layer.head_dim]

    def filled_to(length: int) -> KvCache:
        cache = KvCache(layers, context_length=4096, capacity=40)
        for index, name in enumerate(cache_names(layers)):
            for at in range(length):
                cache.write(name, source(index, name)[:, :, at : at + 1], at)
        cache.length = length
        return cache

    on_device = DeviceKvCache(gpu, layers, 1)
    on_device.import_rows(filled_to(30))
    for index, name in enumerate(cache_names(layers)):
        rows = downloaded(on_device, name)
        lost = 22 if index > 1 else 0
        np.testing.assert_array_equal(rows[:, :, lost:30], source(index, name)[:, :, lost:30])
        assert not rows[:, :, :lost].any()
        assert not rows[:, :, 30:].any()
    on_device.import_rows(filled_to(12))
    target = filled_to(10)
    on_device.export_rows(target, 10)
    for name, rows in target.filled().items():
        np.testing.assert_array_equal(rows, filled_to(12).filled()[name])
    on_device.close()


def test_only_filled_rows_cross(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    copy_tensors = ort.copy_tensors

    def counted(sources: list[ort.OrtValue], targets: list[ort.OrtValue]) -> None:
        sizes.extend(source.tensor_size_in_bytes() for source in sources)
        copy_tensors(sources, targets)

    cache = DeviceKvCache(gpu, LAYERS, 1)
    monkeypatch.setattr(ort, "copy_tensors", counted)
    cache.import_rows(host_cache(5, capacity=4000))
    cache.export_rows(host_cache(3), 3)
    row, half = 2 * 4 * 4, 8 * 2
    assert sizes == [rows * size for rows in (5, 2) for size in (row, row, half, half)]


def test_memory_that_is_full_is_one_line_with_the_size(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OutOfMemory("gpu:webgpu could not upload 'start': out of memory")

    cache = DeviceKvCache(gpu, LAYERS, 1)
    cache.import_rows(host_cache(5))
    monkeypatch.setattr(cache._groups[0].module, "run_on_device", full)
    size = 4096 * 2 * (2 * 4 * 4 + 8 * 2)
    with pytest.raises(OutOfMemory, match=f"keys and values of 4096 tokens, {size:,} bytes; .*--kv-dtype float16"):
        cache.reserve(4096, 4096)
    assert (cache.length, cache.capacity) == (5, 256)
    cache.close()


@pytest.mark.slow  # the software driver compiles the model's shaders for a minute
def test_answers_are_right_in_all_directions_and_nothing_is_uploaded_per_step(
    gpu: Device, tiny_llms: TinyLlms, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tiny_llms.get("llama", "F32", "float32")
    cpus = [kit.device("cpu:ort"), kit.device("cpu:openvino")]
    ids = kit.tokens(40, seed=40).tolist()
    expected = tiny.oracle.greedy(ids, 20)
    for prefill, decode in [(gpu, gpu), *((gpu, cpu) for cpu in cpus), *((cpu, gpu) for cpu in cpus)]:
        with LanguageSession(tiny.bundle, prefill, decode, threads=1, precision="float32", keeps_cache=True) as session:
            answer = session.generate(ids, max_new_tokens=20, ignore_eos=True)
            assert list(answer.token_ids) == expected
            longer = [*ids, *expected, *ids[:3]]  # a second turn: the beginning is in the cache
            second = session.generate(longer, max_new_tokens=5, ignore_eos=True)
            assert list(second.token_ids) == tiny.oracle.greedy(longer, 5)
            assert second.stats.cached_tokens >= len(ids)
    runner = load_runner(tiny.bundle, gpu, precision="float32", decodes=True, exports_cache=False)
    inner = runner._runner if isinstance(runner, ChunkedRunner) else runner
    assert isinstance(inner, DeviceRunner)
    runner.reset(kit.cache_for(tiny.bundle))
    runner.forward(np.array(ids[:5]), 0)
    sizes: list[int] = []
    copy_tensors = ort.copy_tensors

    def counted(sources: list[ort.OrtValue], targets: list[ort.OrtValue]) -> None:
        sizes.extend(source.tensor_size_in_bytes() for source in sources)
        copy_tensors(sources, targets)

    generation = inner.cache.generation
    for at, token in enumerate(ids[5:9]):
        runner.forward(np.array([token]), 5 + at)
        monkeypatch.setattr(ort, "copy_tensors", counted)  # from the second step on
    # The token, the position of the last one, the length; and the scores.
    assert sizes == [8, 4, 4, tiny.bundle.vocab * 4] * 3
    assert inner.step_binding().uploaded_bytes == 8 + 4 + 4
    assert inner.cache.generation == generation
    runner.close()
