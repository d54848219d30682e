"""A whole comparison on this machine's CPU engines, and the strategies that spoil it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trisect
from tests.bench.comparing.comparisons import store_synthetic_profile, write_model
from trisect import api
from trisect.bench.comparing import candidates
from trisect.bench.comparing.candidates import Candidate, parse_strategies
from trisect.bench.comparing.compare import ComparisonRequest, compare
from trisect.bench.comparing.comparison import Comparison, results_of
from trisect.bench.comparing.interleaved_measurement import (
    ContenderConfig,
    ContenderMeasurements,
    InterleavedMeasurement,
)
from trisect.bench.contenders import PeerVariant
from trisect.partitioner import strategies
from trisect.partitioner.strategies import UnknownStrategy
from trisect.runtime.device import Device
from trisect.runtime.errors import InfeasibleProblem, InvalidInput, InvalidModel

SHAPES = {"batch": 3}


@trisect.strategy("bench-halves")
def halves(problem: trisect.Problem) -> dict[str, str]:
    ids = [device.id for device in problem.devices]
    tasks = list(problem.graph)
    return {task: ids[2 * number // len(tasks) % len(ids)] for number, task in enumerate(tasks)}


@trisect.strategy("bench-raises")
def raises(problem: trisect.Problem) -> dict[str, str]:
    raise ZeroDivisionError("no luck")


@trisect.strategy("bench-unknown-device")
def unknown_device(problem: trisect.Problem) -> dict[str, str]:
    return dict.fromkeys(problem.graph, "tpu:nowhere")


@trisect.strategy("bench-forgets")
def forgets(problem: trisect.Problem) -> dict[str, str]:
    return {}


@trisect.strategy("bench-for-ever")
def for_ever(problem: trisect.Problem) -> dict[str, str]:
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue


@trisect.strategy("bench-exits")
def exits(problem: trisect.Problem) -> dict[str, str]:
    raise SystemExit("enough")


@trisect.strategy("bench-moody")
def moody(problem: trisect.Problem) -> dict[str, str]:
    return dict.fromkeys(problem.graph, next(MOODS))


MOODS = itertools.cycle(["cpu:ort", "cpu:openvino"])
BAD = ("bench-raises", "bench-unknown-device", "bench-forgets", "bench-for-ever", "bench-exits", "bench-moody")


@pytest.fixture(scope="module", autouse=True)
def _forgotten_afterwards() -> Iterator[None]:
    """Strategies of this file are no strategies of the other tests."""
    yield
    for name in (*BAD, "bench-halves"):
        strategies._REGISTERED.pop(name)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("TRISECT_PROFILES", str(folder / "profiles"))
        store_synthetic_profile()
        yield folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "branches.onnx")


@pytest.fixture(scope="module")
def devices(cache: Path) -> str:
    result = [device.id for device in api.devices("cpu:ort,cpu:openvino")]
    return ",".join(result)


@pytest.fixture(scope="module")
def comparison(model: Path, devices: str, cache: Path) -> Comparison:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "PLANNING_LIMIT_S", 5.0)
        return compare(
            ComparisonRequest(
                model, ["bench-halves", "single", "single:cpu:ort", *BAD], devices, shapes=SHAPES, budget_s=1.0
            )
        )


def by_name(comparison: Comparison) -> dict[str, Any]:
    return {result.name: result for result in comparison.results}


def test_every_result_has_its_figures(comparison: Comparison) -> None:
    results = by_name(comparison)
    assert {r.name for r in comparison.results if r.failed} == set(BAD)
    for result in comparison.results:
        if result.failed is None:
            assert result.turns >= 1
            assert result.calls >= result.turns
            assert result.latency_s > 0
            assert result.throughput_hz > 0
            assert result.peak_bytes > 10_000_000
            assert result.ok
            assert result.max_abs < 1e-3
            assert result.trace.source == "measured"
            assert min(event.start_s for event in result.trace.events) == 0.0
    halves = results["bench-halves"]
    assert halves.segments > 1
    assert halves.transfers >= 1
    assert halves.transfer_bytes >= 3 * 16 * 4
    assert set(halves.devices) == {"cpu:ort", "cpu:openvino"}
    assert {event.device for event in halves.trace.events} == set(halves.devices)
    assert halves.gap == pytest.approx(halves.value / halves.bound - 1)
    assert results["single:cpu:ort"].segments == 1
    assert results["single:cpu:ort"].transfers == 0


def test_peers_are_labelled_and_what_comes_to_the_same_is_measured_once(comparison: Comparison) -> None:
    results = by_name(comparison)
    peers = {name for name, result in results.items() if result.kind == "peer"}
    assert peers == {
        "ONNX Runtime alone", "ONNX Runtime's partitioning", "OpenVINO alone", "OpenVINO HETERO, CPU twice",
    }  # fmt: skip
    same = results["ONNX Runtime's partitioning"]
    assert same.same_as == "ONNX Runtime alone"
    assert same.latency_s == results["ONNX Runtime alone"].latency_s
    assert "cannot gain" in results["OpenVINO HETERO, CPU twice"].note
    assert results["OpenVINO alone"].predicted is None


def test_sorted_best_first_failed_last(comparison: Comparison) -> None:
    times = [result.latency_s for result in comparison.results if result.failed is None]
    assert times == sorted(times)
    assert [result.failed is not None for result in comparison.results] == [False] * len(times) + [True] * len(BAD)
    assert comparison.best is comparison.results[0]
    assert [result.best for result in comparison.results].count(True) == 1


def test_failures_of_strategies_are_reported(comparison: Comparison) -> None:
    results = by_name(comparison)
    assert results["bench-raises"].failed == "ZeroDivisionError: no luck"
    assert "tpu:nowhere" in results["bench-unknown-device"].failed
    assert results["bench-forgets"].failed
    assert results["bench-for-ever"].failed == "no placement within 5 s"
    assert results["bench-exits"].failed == "SystemExit: enough"
    assert results["bench-moody"].failed == "not deterministic: with seed 0 again, 25 of 25 nodes moved"


def test_the_machine_is_described(comparison: Comparison) -> None:
    noise = comparison.noise
    assert noise is not None
    assert noise.others_share is not None
    assert 0 <= noise.others_share <= 1
    assert noise.speed_spread is not None
    assert noise.speed_spread >= 0
    assert "speed varied" in noise.describe()


def test_agreeing_strategies_are_one_result(model: Path, devices: str, cache: Path) -> None:
    comparison = compare(
        ComparisonRequest(
            model, "single:cpu:ort,random", "cpu:ort", shapes=SHAPES, budget_s=1.0, peers=False, fresh=True
        )
    )
    (only,) = comparison.results
    assert (only.name, only.also) == ("single:cpu:ort", ("random",))


def test_a_second_run_goes_on_and_a_fresh_one_does_not(model: Path, cache: Path) -> None:
    def run(**options: Any) -> Any:
        options = {"shapes": SHAPES, "budget_s": 1.0, "peers": False} | options
        return compare(ComparisonRequest(model, "single", "cpu:ort", **options))

    first, second, fresh = run(fresh=True), run(), run(fresh=True)
    assert not first.resumed
    assert second.resumed
    assert second.date == first.date
    assert second.results[0].turns == first.results[0].turns + second.rounds
    assert fresh.results[0].turns == fresh.rounds
    other = run(seed=7)  # other feeds: another question
    assert not other.resumed


def test_a_damaged_cache_is_measured_anew(model: Path, cache: Path) -> None:
    def run() -> Comparison:
        return compare(ComparisonRequest(model, "single", "cpu:ort", shapes=SHAPES, budget_s=1.0, peers=False))

    run()
    for file in (cache / "trisect" / "bench").iterdir():
        file.write_bytes(file.read_bytes()[:-20])
    assert not run().resumed


def test_wrong_answers_never_win(comparison: Comparison) -> None:
    quick = ContenderMeasurements(turns_s=((0.1,),), streams_hz=(10.0,), max_abs=9.0, max_rel=1.0, ok=False)
    slow = replace(quick, turns_s=((0.2,),), max_abs=0.0, max_rel=0.0, ok=True)
    made = [Candidate(name, contender=ContenderConfig(name, name, "x", Path(), ())) for name in ("quick", "slow")]
    measured = InterleavedMeasurement({"quick": quick, "slow": slow}, 1, 1.0, None, False)
    results = results_of(made, measured, (), "latency")
    assert [(r.name, r.best) for r in results] == [("quick", False), ("slow", True)]


def test_simulators_win_only_among_themselves() -> None:
    devices = (Device("cpu:x", "cpu", "x", ""), Device("npu:y", "npu", "y", "", "simulated"))
    made = [
        Candidate(d.id, peer=PeerVariant(d.id, (d.id,)), contender=ContenderConfig(d.id, d.id, "x", Path(), (d,)))
        for d in devices
    ]
    turns = {"npu:y": ContenderMeasurements(turns_s=((0.1,),)), "cpu:x": ContenderMeasurements(turns_s=((0.2,),))}
    results = results_of(made, InterleavedMeasurement(turns, 1, 1.0, None, False), devices, "latency")
    assert [(r.name, r.reality, r.best) for r in results] == [
        ("npu:y", "simulated", False), ("cpu:x", "hardware", True),
    ]  # fmt: skip
    alone = results_of(made[1:], InterleavedMeasurement(turns, 1, 1.0, None, False), devices, "latency")
    assert [r.best for r in alone] == [True]


def test_names_of_strategies() -> None:
    here = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    every = parse_strategies("all", here)
    assert {"auto", "heft", "exact", "single:cpu:x", "single:gpu:y"} <= set(every)
    assert "single" not in every
    assert parse_strategies(["heft", "auto,heft"], here) == ["heft", "auto"]
    with pytest.raises(UnknownStrategy, match="did you mean heft"):
        parse_strategies("hefft", here)
    with pytest.raises(InvalidInput):
        parse_strategies(" , ", here)


def test_bad_input_is_refused_before_anything_is_measured(model: Path, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(InvalidInput, match="batch"):
        compare(ComparisonRequest(model, "single", "cpu:ort"))
    with pytest.raises(InvalidInput, match="too small"):
        compare(ComparisonRequest(model, "single", "cpu:ort", shapes=SHAPES, budget_s=0.0))
    with pytest.raises(InvalidModel):
        compare(ComparisonRequest(tmp_path / "none.onnx", "single", "cpu:ort"))
    with pytest.raises(InfeasibleProblem, match="bench-raises: ZeroDivisionError"):
        compare(ComparisonRequest(model, "bench-raises", "cpu:ort", shapes=SHAPES, budget_s=1.0))
    with pytest.raises(InvalidInput, match="x"):
        compare(
            ComparisonRequest(model, "single", "cpu:ort", shapes=SHAPES, budget_s=1.0, feeds={"x": np.zeros((2, 2))})
        )
