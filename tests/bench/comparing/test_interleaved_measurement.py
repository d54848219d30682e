"""Turns: who is turns when, when it is enough, what is saved, and how sure a median is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import pytest

from trisect.bench.comparing import interleaved_measurement
from trisect.bench.comparing.contender_process import ContenderTurn
from trisect.bench.comparing.interleaved_measurement import (
    ContenderConfig,
    ContenderMeasurements,
    InterleavedMeasurement,
    MeasurementOptions,
    measure,
    median_interval,
)
from trisect.bench.comparing.output_comparison import OutputDifference
from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.device import Device
from trisect.scheduler.problem.rules import Objective

CPU = Device("npu:null", "npu", "null", "a device without a power counter", "simulated")


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


class ScriptedProcess:
    """Answers from a script, and notes who was turns."""

    turns: ClassVar[list[str]] = []
    scripts: ClassVar[dict[str, Iterator[float | Exception]]] = {}
    energies_j: ClassVar[dict[str, float]] = {}
    pid = 2**22 + 1

    def __init__(self, system: str, name: str) -> None:
        self.name = name

    def __enter__(self) -> ScriptedProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def load(self, *arguments: Any, **options: Any) -> tuple[str, float]:
        if self.name == "unloadable":
            raise ChildProcessFailed("unloadable", "no such operator")
        return "", 0.001

    def compare_outputs(self, reference: Path) -> OutputDifference:
        return OutputDifference(0.0, 0.0, True)

    def take_turn(self, calls: int, items: int) -> ContenderTurn:
        self.turns.append(self.name)
        value = next(self.scripts[self.name])
        if isinstance(value, BaseException):
            raise value
        return ContenderTurn((value,) * 3, 1 / value, (), 1000, self.energies_j.get(self.name))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(interleaved_measurement, "ContenderProcess", ScriptedProcess)
    monkeypatch.setattr(interleaved_measurement, "_PAUSE_S", 0.0)
    ScriptedProcess.turns = []

    def call(
        scripts: Mapping[str, Iterator[Any]],
        budget_s: float = 1e9,
        known: Mapping[str, ContenderMeasurements] | None = None,
        objective: Objective = "latency",
        energies_j: Mapping[str, float] | None = None,
    ) -> tuple[InterleavedMeasurement, list[Mapping[str, ContenderMeasurements]]]:
        ScriptedProcess.scripts = dict(scripts)
        ScriptedProcess.energies_j = dict(energies_j or {})
        saved: list[Mapping[str, ContenderMeasurements]] = []
        contenders = [ContenderConfig(f"key of {name}", name, "fake", Path("m"), (CPU,)) for name in scripts]
        measurement = measure(
            contenders,
            MeasurementOptions(objective, Path("f"), Path("r"), {}, None, budget_s),
            known=known or {},
            save=lambda now: saved.append(dict(now)),
            progress=lambda *step: None,
        )
        return measurement, saved

    return call


def always(value: float) -> Iterator[float]:
    while True:
        yield value


def unsteady(*values: float) -> Iterator[float]:
    while True:
        yield from values


def test_turns_alternate_until_all_are_narrow(run: Any) -> None:
    result, saved = run({"a": always(1.0), "b": always(1.1)})
    assert ScriptedProcess.turns == ["a", "b"] * 6
    assert result.rounds == 6
    assert len(saved) == 7
    assert result.contenders["key of a"].interval_s == (1.0, 1.0)
    assert result.contenders["key of b"].latency_s == 1.1
    assert result.contenders["key of b"].throughput_hz == pytest.approx(1 / 1.1)


def test_one_round_is_always_made_and_no_more_when_the_budget_is_spent(run: Any) -> None:
    result, _ = run({"a": always(1.0), "b": always(1.0)}, budget_s=0.0)
    assert ScriptedProcess.turns == ["a", "b"]
    assert result.contenders["key of a"].interval_s is None


def test_the_surely_beaten_take_no_further_turns(run: Any) -> None:
    result, _ = run({"a": unsteady(1.0, 1.1, 0.9, *[1.0] * 60), "slow": unsteady(5.0, 6.0)})
    assert ScriptedProcess.turns.count("slow") == 6
    assert ScriptedProcess.turns.count("a") > 6
    assert result.contenders["key of a"].is_narrow()
    assert not result.contenders["key of slow"].is_narrow()


def test_who_is_beaten_in_time_may_be_best_in_energy(run: Any) -> None:
    slow = {"quick": always(1.0), "frugal": unsteady(5.0, 6.0)}
    result, _ = run(slow, objective="energy", energies_j={"quick": 9.0, "frugal": 1.0})
    assert ScriptedProcess.turns == ["quick", "frugal"] * 6  # the quick one is beaten by then
    assert result.contenders["key of frugal"].energy_j == 1.0
    assert result.contenders["key of frugal"].energies_j == (1.0,) * 6


def test_joules_of_one_are_not_held_against_seconds_of_another(run: Any) -> None:
    result, _ = run(
        {"counted": always(1.0), "unmetered": always(1.1)}, objective="energy", energies_j={"counted": 1e-3}
    )
    assert ScriptedProcess.turns == ["counted", "unmetered"] * 6
    assert result.contenders["key of unmetered"].energy_j is None
    assert result.contenders["key of unmetered"].energies_j == ()


def test_failures_are_theirs_alone(run: Any) -> None:
    breaks = iter([1.0, ChildProcessFailed("b", "its process ended (SIGSEGV)")])
    result, _ = run({"a": always(1.0), "b": breaks, "unloadable": always(1.0)})
    assert result.contenders["key of b"].failed == "its process ended (SIGSEGV)"
    assert len(result.contenders["key of b"].turns_s) == 1
    assert result.contenders["key of unloadable"].failed == "no such operator"
    assert result.contenders["key of a"].is_narrow()


def test_interrupted_keeps_what_is_done(run: Any) -> None:
    result, saved = run({"a": always(1.0), "b": iter([1.0, 1.0, KeyboardInterrupt()])})
    assert result.interrupted
    assert len(result.contenders["key of a"].turns_s) == 3
    assert len(result.contenders["key of b"].turns_s) == 2
    assert saved[-1] == result.contenders


def test_an_earlier_run_is_gone_on_from(run: Any) -> None:
    first, _ = run({"a": always(1.0), "b": iter([1.0, 1.0, KeyboardInterrupt()])})
    ScriptedProcess.turns.clear()
    second, _ = run({"a": always(1.0), "b": always(1.0)}, known=first.contenders)
    assert ScriptedProcess.turns == ["a", "b"] * 4
    ScriptedProcess.turns.clear()
    third, _ = run({"a": always(1.0), "b": always(1.0)}, known=second.contenders)
    assert ScriptedProcess.turns == []
    assert third.rounds == 0
    assert third.contenders == second.contenders


def test_what_failed_before_is_tried_again(run: Any) -> None:
    first, _ = run({"a": iter([ChildProcessFailed("a", "no memory")])})
    assert first.contenders["key of a"].failed == "no memory"
    second, _ = run({"a": always(1.0)}, known=first.contenders)
    assert second.contenders["key of a"].failed is None
    assert second.contenders["key of a"].is_narrow()
