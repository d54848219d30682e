"""The memory of an array that is still referenced must never be reused."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trisect.runtime.workers import tensor_pool as pool_module
from trisect.runtime.workers.tensor_pool import LARGE_BYTES, TensorPool, slot_bytes

FLOAT = np.dtype("float32")


@given(st.lists(st.tuples(st.integers(0, 700_000), st.booleans()), max_size=40))
@settings(max_examples=40)
def test_arrays_that_are_alive_never_share_memory(steps):
    pool = TensorPool(shared=False)
    alive: list[tuple[np.ndarray, int]] = []
    for number, (count, drop) in enumerate(steps):
        array = pool.empty(FLOAT, (count,))
        array[:] = number
        alive.append((array[: count // 2], number))  # a view keeps the slot as the array does
        if drop:
            alive.pop(len(alive) // 2)
    for view, number in alive:
        assert (view == number).all()


@given(st.integers(0, 1 << 34))
def test_a_slot_holds_what_it_is_for_and_wastes_a_quarter_at_most(size):
    slot = slot_bytes(size)
    assert slot >= size
    assert slot % 64 == 0
    assert size <= 256 or slot <= size * 1.25 + 64
    assert slot_bytes(slot) == slot


def test_memory_is_reused():
    pool = TensorPool(shared=False)
    for _ in range(50):
        pool.empty(FLOAT, (LARGE_BYTES,))
        pool.empty(FLOAT, (100,))
    assert pool.live_bytes == 0
    assert pool.size_bytes <= 4 * LARGE_BYTES + (8 << 20)


def test_free_memory_beyond_the_limit_is_returned_to_the_system(monkeypatch):
    monkeypatch.setattr(pool_module, "_FREE_BYTES_MAX", 4 * LARGE_BYTES)
    pool = TensorPool(shared=True)
    held = [pool.empty(np.dtype("uint8"), (LARGE_BYTES,)) for _ in range(12)]
    held.clear()
    assert pool.live_bytes == 0
    assert pool.size_bytes == 12 * LARGE_BYTES  # as much was in use a moment ago
    for _ in range(2000):
        pool.empty(np.dtype("uint8"), (LARGE_BYTES,))
    assert pool.live_bytes == 0
    assert pool.size_bytes <= 4 * LARGE_BYTES
    assert len(pool.dropped) == len(set(pool.dropped)) == 8
    pool.close()


def test_only_what_lies_in_the_pool_is_found_there():
    pool = TensorPool(shared=False)
    array = pool.empty(FLOAT, (4, 6))
    place = pool.locate(array)
    assert place is not None
    inside = pool.locate(array[2:])
    assert inside is not None
    assert inside.offset - place.offset == 48
    assert pool.locate(array.T) is None  # not in one piece
    assert pool.locate(np.zeros(4, np.float32)) is None
    assert pool.locate(array[:0]) is None
    alias = pool.alias(array)
    assert alias is not None
    array[:] = 3
    assert (alias == 3).all()


def test_an_alias_does_not_keep_the_slot():
    pool = TensorPool(shared=False)
    array = pool.empty(FLOAT, (8,))
    alias, place = pool.alias(array), pool.locate(array)
    del array
    again = pool.empty(FLOAT, (8,))
    assert pool.locate(again) == place
    assert alias is not None


def test_results_outlive_the_pool():
    pool = TensorPool(shared=True)
    array = pool.copy(np.arange(1000))
    pool.close()
    assert array.sum() == 499_500
