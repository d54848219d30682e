"""Turns: who is asked when, when it is enough, what is kept, and how sure a median is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import pytest

from trisect.bench.comparing import interleaved_measurement as measuring
from trisect.bench.comparing.contender_process import Turn
from trisect.bench.comparing.interleaved_measurement import Entrant, Measured, Measurement, measure, median_interval
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed
from trisect.scheduler.problem.rules import Objective

CPU = Device("npu:null", "npu", "null", "a device that tells no power", "simulated")


def test_interval_covers_the_median_as_often_as_it_says() -> None:
    """By trying every order of values below and above the median: that which chance gives 2**n equally likely."""
    for n in range(6, 13):
        interval = median_interval(list(range(n)))
        assert interval is not None
        low, high = interval
        missed = 0
        for below in product([0, 1], repeat=n):
            count = sum(below)  # values below the true median: the ordered values up to count - 1
            missed += not low <= count - 0.5 <= high
        assert missed / 2**n <= 0.05
        narrower = [sum(not low + 1 <= sum(b) - 0.5 <= high - 1 for b in product([0, 1], repeat=n)) / 2**n]
        assert narrower[0] > 0.05


def test_interval_needs_six_turns() -> None:
    assert median_interval([1.0] * 5) is None
    assert median_interval([3.0, 1.0, 2.0, 6.0, 5.0, 4.0]) == (1.0, 6.0)


class FakeContending:
    """Answers from a script, and notes who was asked."""

    asked: ClassVar[list[str]] = []
    scripts: ClassVar[dict[str, Iterator[float | Exception]]] = {}
    energies_j: ClassVar[dict[str, float]] = {}
    pid = 2**22 + 1

    def __init__(self, system: str, name: str) -> None:
        self.name = name

    def __enter__(self) -> FakeContending:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def load(self, *arguments: Any, **options: Any) -> tuple[str, float]:
        if self.name == "unloadable":
            raise EngineFailed("unloadable failed: no such operator", reason="no such operator")
        return "", 0.001

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        return {"max_abs": 0.0, "max_rel": 0.0, "ok": True}

    def turn(self, calls: int, items: int) -> Turn:
        self.asked.append(self.name)
        value = next(self.scripts[self.name])
        if isinstance(value, BaseException):
            raise value
        return Turn((value,) * 3, 1 / value, (), 1000, self.energies_j.get(self.name))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(measuring, "Contending", FakeContending)
    monkeypatch.setattr(measuring, "_PAUSE_S", 0.0)
    FakeContending.asked = []

    def call(
        scripts: Mapping[str, Iterator[Any]],
        budget_s: float = 1e9,
        known: Mapping[str, Measured] | None = None,
        objective: Objective = "latency",
        energies_j: Mapping[str, float] | None = None,
    ) -> tuple[Measurement, list[Mapping[str, Measured]]]:
        FakeContending.scripts = dict(scripts)
        FakeContending.energies_j = dict(energies_j or {})
        kept: list[Mapping[str, Measured]] = []
        entrants = [Entrant(f"key of {name}", name, "fake", Path("m"), (CPU,)) for name in scripts]
        found = measure(
            entrants, objective=objective, feeds=Path("f"), reference=Path("r"), shapes={}, threads=None,
            budget_s=budget_s, known=known or {}, keep=lambda now: kept.append(dict(now)), progress=lambda *told: None,
        )  # fmt: skip
        return found, kept

    return call


def always(value: float) -> Iterator[float]:
    while True:
        yield value


def unsteady(*values: float) -> Iterator[float]:
    while True:
        yield from values


def test_turns_alternate_until_all_are_narrow(run: Any) -> None:
    found, kept = run({"a": always(1.0), "b": always(1.1)})
    assert FakeContending.asked == ["a", "b"] * 6
    assert found.rounds == 6
    assert len(kept) == 7
    assert found.entrants["key of a"].interval_s == (1.0, 1.0)
    assert found.entrants["key of b"].latency_s == 1.1
    assert found.entrants["key of b"].throughput_hz == pytest.approx(1 / 1.1)


def test_one_round_is_always_made_and_no_more_when_the_budget_is_spent(run: Any) -> None:
    found, _ = run({"a": always(1.0), "b": always(1.0)}, budget_s=0.0)
    assert FakeContending.asked == ["a", "b"]
    assert found.entrants["key of a"].interval_s is None


def test_the_surely_beaten_take_no_further_turns(run: Any) -> None:
    found, _ = run({"a": unsteady(1.0, 1.1, 0.9, *[1.0] * 60), "slow": unsteady(5.0, 6.0)})
    assert FakeContending.asked.count("slow") == 6
    assert FakeContending.asked.count("a") > 6
    assert found.entrants["key of a"].is_narrow()
    assert not found.entrants["key of slow"].is_narrow()


def test_who_is_beaten_in_time_may_be_best_in_energy(run: Any) -> None:
    slow = {"quick": always(1.0), "frugal": unsteady(5.0, 6.0)}
    found, _ = run(slow, objective="energy", energies_j={"quick": 9.0, "frugal": 1.0})
    assert FakeContending.asked == ["quick", "frugal"] * 6  # the quick one is beaten by then
    assert found.entrants["key of frugal"].energy_j == 1.0
    assert found.entrants["key of frugal"].energies_j == (1.0,) * 6


def test_joules_of_one_are_not_held_against_seconds_of_another(run: Any) -> None:
    found, _ = run({"counted": always(1.0), "untold": always(1.1)}, objective="energy", energies_j={"counted": 1e-3})
    assert FakeContending.asked == ["counted", "untold"] * 6
    assert found.entrants["key of untold"].energy_j is None
    assert found.entrants["key of untold"].energies_j == ()


def test_failures_are_theirs_alone(run: Any) -> None:
    breaks = iter([1.0, EngineFailed("b failed: its process ended (SIGSEGV)", reason="its process ended (SIGSEGV)")])
    found, _ = run({"a": always(1.0), "b": breaks, "unloadable": always(1.0)})
    assert found.entrants["key of b"].failed == "its process ended (SIGSEGV)"
    assert len(found.entrants["key of b"].turns_s) == 1
    assert found.entrants["key of unloadable"].failed == "no such operator"
    assert found.entrants["key of a"].is_narrow()


def test_interrupted_keeps_what_is_done(run: Any) -> None:
    found, kept = run({"a": always(1.0), "b": iter([1.0, 1.0, KeyboardInterrupt()])})
    assert found.interrupted
    assert len(found.entrants["key of a"].turns_s) == 3
    assert len(found.entrants["key of b"].turns_s) == 2
    assert kept[-1] == found.entrants


def test_an_earlier_run_is_gone_on_from(run: Any) -> None:
    first, _ = run({"a": always(1.0), "b": iter([1.0, 1.0, KeyboardInterrupt()])})
    FakeContending.asked.clear()
    second, _ = run({"a": always(1.0), "b": always(1.0)}, known=first.entrants)
    assert FakeContending.asked == ["a", "b"] * 4
    FakeContending.asked.clear()
    third, _ = run({"a": always(1.0), "b": always(1.0)}, known=second.entrants)
    assert FakeContending.asked == []
    assert third.rounds == 0
    assert third.entrants == second.entrants


def test_what_failed_before_is_tried_again(run: Any) -> None:
    first, _ = run({"a": iter([EngineFailed("a failed: no memory", reason="no memory")])})
    assert first.entrants["key of a"].failed == "no memory"
    second, _ = run({"a": always(1.0)}, known=first.entrants)
    assert second.entrants["key of a"].failed is None
    assert second.entrants["key of a"].is_narrow()
