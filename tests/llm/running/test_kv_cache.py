"""The KV cache keeps what it holds while it grows, and never grows beyond the context."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from trisect.llm.running.kv_cache import KvCache
from trisect.llm.running.kv_layer import KvDtype, KvLayer, cache_names
from trisect.runtime.errors import ContextExceeded
from trisect.runtime.tensors.dtypes import dtype_of

LAYERS = (KvLayer(0, 3, 4), KvLayer(1, 3, 4))


def make(context_length: int = 2048, capacity: int = 10) -> KvCache:
    return KvCache(LAYERS, context_length, capacity)


def test_names_and_shapes() -> None:
    cache = make()
    names = cache_names(LAYERS)
    assert names == [f"past_key_values.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
    assert list(cache.buffers) == names
    assert {buffer.shape for buffer in cache.buffers.values()} == {(1, 3, 256, 4)}
    assert (
        sum(layer.bytes_per_token for layer in LAYERS) == sum(buffer.nbytes for buffer in cache.buffers.values()) // 256
    )


def test_memory_is_taken_when_it_is_needed_first() -> None:
    tracemalloc.start()
    cache = make(1 << 20, 1 << 18)
    cache.reserve(1 << 19)
    before = tracemalloc.get_traced_memory()[0]
    size = sum(buffer.nbytes for buffer in cache.buffers.values())
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size == (1 << 19) * 2 * 2 * 3 * 4 * 4
    assert before < size // 100
    assert after >= size


def test_growing_preserves_the_content_and_changes_the_generation() -> None:
    cache = make()
    rows = np.random.default_rng(0).normal(size=(1, 3, 200, 4)).astype(np.float32)
    for name in cache_names(LAYERS):
        cache.write(name, rows, 0)
    cache.length = 200
    before, generation = dict(cache.buffers), cache.generation
    cache.reserve(256)
    assert cache.generation == generation
    assert all(cache.buffers[name] is buffer for name, buffer in before.items())
    cache.reserve(257)
    assert cache.generation != generation
    assert cache.capacity == 512
    for name, filled in cache.filled().items():
        assert np.shares_memory(filled, cache.buffers[name])
        np.testing.assert_array_equal(filled, rows)
    assert not cache.buffers["past_key_values.1.value"][:, :, 200:].any()


@pytest.mark.parametrize("source", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("target", ["float32", "float16"])
def test_another_dtype_is_converted_and_rounded_once(source: str, target: KvDtype) -> None:
    cache = KvCache([KvLayer(3, 2, 8, target)], 2048, 10)
    values = np.random.default_rng(1).normal(size=(1, 2, 5, 8)).astype(np.float32).astype(dtype_of(source))
    cache.write("past_key_values.3.key", values, 4)
    cache.length = 9
    written = cache.filled()["past_key_values.3.key"][:, :, 4:]
    assert written.dtype == dtype_of(target)
    np.testing.assert_array_equal(written, values.astype(np.float32).astype(target))
    assert cache.layers[0].size_bytes(9) == sum(rows.nbytes for rows in cache.filled().values())


@pytest.mark.parametrize("parts", [(1,) * 60, (60,), (5, 30, 1, 1, 23), (16, 17, 27)])
def test_a_window_holds_its_latest_tokens_however_they_arrive(parts: tuple[int, ...]) -> None:
    layer = KvLayer(0, 1, 2, window=8)
    cache = KvCache([layer, KvLayer(1, 1, 2)], 2048, 10)
    rows = np.arange(2 * 60, dtype=np.float32).reshape(1, 1, 60, 2)
    start = 0
    for part in parts:
        for name in cache_names(cache.layers):
            cache.write(name, rows[:, :, start : start + part], start)
        start = cache.length = start + part
        first = max(0, start - 8)
        np.testing.assert_array_equal(cache.filled()["past_key_values.0.key"], rows[:, :, first:start])
        whole = cache.full_length()
        np.testing.assert_array_equal(whole["past_key_values.1.key"], rows[:, :, :start])
        np.testing.assert_array_equal(whole["past_key_values.0.key"][:, :, first:], rows[:, :, first:start])
        assert not whole["past_key_values.0.key"][:, :, :first].any()
    assert cache.buffers["past_key_values.0.value"].shape == (1, 1, 16, 2)
    assert sum(held.nbytes for held in cache.filled().values()) == sum(one.size_bytes(60) for one in cache.layers)


@pytest.mark.parametrize("tokens", range(15, 45))
def test_a_window_is_rewound_as_far_as_it_holds_what_is_needed(tokens: int) -> None:
    rows = np.arange(2 * 60, dtype=np.float32).reshape(1, 1, 60, 2)
    for length in range(tokens + 1):
        cache = KvCache([KvLayer(0, 1, 2, window=8)], 2048, 10)
        for name in cache.buffers:
            cache.write(name, rows[:, :, :tokens], 0)
        cache.length = tokens
        first_held = int(cache.buffers["past_key_values.0.key"][0, 0, 0, 0]) // 2
        # The next token sees itself and the 7 before it.
        assert cache.rewind(length) == (max(0, length - 7) >= first_held)
        if cache.length == length and length:
            seen = cache.filled()["past_key_values.0.key"][:, :, -7:]
            np.testing.assert_array_equal(seen, rows[:, :, max(0, length - 7) : length])
            for name in cache.buffers:  # and what follows is laid out as if nothing had been removed
                cache.write(name, rows[:, :, length:], length)
            cache.length = 60
            np.testing.assert_array_equal(cache.filled()["past_key_values.0.key"], rows[:, :, 52:])


def test_capacity_never_passes_the_context() -> None:
    cache = make(context_length=300, capacity=1)
    cache.reserve(257)
    assert cache.capacity == 300
    cache.reserve(300)
    with pytest.raises(ContextExceeded, match="301 tokens do not fit into the model's context of 300"):
        cache.reserve(301)
    with pytest.raises(ContextExceeded):
        make(context_length=100, capacity=101)
    assert make(context_length=7, capacity=7).capacity == 7


def test_doubling_keeps_the_number_of_copies_small() -> None:
    cache = make(context_length=1 << 14)
    for tokens in range(1, 1 << 14, 100):
        cache.reserve(tokens)
    assert cache.generation <= 8


def test_clear_forgets_but_keeps_the_buffers() -> None:
    cache = make()
    cache.length = 9
    buffers = dict(cache.buffers)
    cache.clear()
    assert cache.length == 0
    assert all(cache.buffers[name] is buffer for name, buffer in buffers.items())
    assert cache.filled()["past_key_values.0.key"].shape == (1, 3, 0, 4)
