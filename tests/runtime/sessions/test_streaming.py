"""A stream yields one outcome for each item, in order, whatever is computed when and whatever fails."""

from __future__ import annotations

from concurrent.futures import Future
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trisect.runtime.errors import EngineFailed, InvalidInput
from trisect.runtime.executors import ItemResult
from trisect.runtime.sessions.streaming import StreamCallbacks, stream


class Computer:
    """Negates items: those that are negative are refused, and a run that holds 13 fails."""

    def __init__(self, random: Random, at_once: bool = False) -> None:
        self.at_once = at_once
        self.waiting: list[tuple[Future[ItemResult], np.ndarray]] = []
        self.recorded = 0
        self.most_in_flight = 0
        self._random = random

    def check(self, feeds):
        if feeds["x"].min(initial=0) < 0:
            raise InvalidInput(f"negative: {feeds['x'][0]}")
        return feeds, ()

    def submit(self, number, feeds, conversions) -> Future[ItemResult]:
        future = LaterFuture(self)
        self.waiting.append((future, feeds["x"]))
        self.most_in_flight = max(self.most_in_flight, len(self.waiting))
        if self.at_once:
            self.compute_one()
        return future

    def run(self, number, feeds, conversions) -> ItemResult:
        if (feeds["x"] == 13).any():
            raise EngineFailed("thirteen")
        return ItemResult({"y": -feeds["x"]}, [("segment 0", "compute", "a", 0.0, 1.0, number, 0)])

    def record(self, result: ItemResult) -> None:
        self.recorded += 1

    def compute_one(self) -> None:
        """Any of those in flight, as devices would."""
        future, x = self.waiting.pop(self._random.randrange(len(self.waiting)))
        try:
            future.set_result(self.run(0, {"x": x}, ()))
        except EngineFailed as error:
            future.set_exception(error)


class LaterFuture(Future):
    """Has others computed before it is."""

    def __init__(self, computer: Computer) -> None:
        super().__init__()
        self._computer = computer

    def result(self, timeout=None):
        while not self.done():
            self._computer.compute_one()
        return super().result(timeout)


def callbacks(computer: Computer) -> StreamCallbacks:
    return StreamCallbacks(computer.check, computer.submit, computer.run, computer.record)


@given(
    st.lists(st.tuples(st.integers(-1, 14), st.integers(1, 3)), max_size=12),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 99),
)
@settings(max_examples=200)
def test_each_item_has_its_outcome_in_order(values, window, micro_batch, seed):
    computer = Computer(Random(seed))
    items = [{"x": np.full(rows, value)} for value, rows in values]
    outcomes = list(stream(items, callbacks(computer), window=window, on_error="yield", micro_batch=micro_batch))
    assert len(outcomes) == len(items)
    for (value, rows), outcome in zip(values, outcomes, strict=True):
        if value < 0:
            assert str(outcome) == f"negative: {value}"
        elif value == 13:
            assert str(outcome) == "thirteen"
        else:
            assert outcome["y"].tolist() == [-value] * rows
    assert computer.most_in_flight <= window
    good = [value for value, _ in values if value >= 0 and value != 13]
    skipped = list(stream(items, callbacks(computer), window=window, on_error="skip", micro_batch=micro_batch))
    assert [-outcome["y"][0] for outcome in skipped] == good
    assert computer.recorded <= 2 * len(good)


@pytest.mark.parametrize("window", [1, 2, 3])
def test_an_error_ends_the_stream_after_the_items_before_it(window):
    computer = Computer(Random(0), at_once=True)
    taken: list[int] = []

    def items():
        for value in (1, 2, 13, 4, 5, 6, 7):
            taken.append(value)
            yield {"x": np.array([value])}

    outcomes = stream(items(), callbacks(computer), window=window, on_error="raise", micro_batch=1)
    assert [next(outcomes)["y"][0] for _ in range(2)] == [-1, -2]
    with pytest.raises(EngineFailed, match="thirteen"):
        for _, _ in zip(range(1), outcomes, strict=False):
            pass
    assert len(taken) <= 2 + window
    assert list(outcomes) == []
