"""Energy of turns, from a synthetic tree of counters that changes as a processor's would."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench.comparing.comparisons import store_synthetic_profile, write_model
from trisect.bench.comparing import contender_process
from trisect.bench.comparing.compare import ComparisonRequest, compare
from trisect.bench.comparing.comparison import Comparison
from trisect.bench.comparing.contender_process import ContenderHandler, ContenderTurn
from trisect.bench.comparing.energy_meter import EnergyMeter, used_j
from trisect.bench.comparing.output_comparison import write_tensors
from trisect.bench.contenders import WholeModelContender
from trisect.profiles.measuring import power
from trisect.profiles.stored import profile_store as store
from trisect.runtime.device import Device
from trisect.runtime.errors import PowerUnknown

CPU = Device("cpu:x", "cpu", "x", "a processor")
TOO = Device("cpu:y", "cpu", "y", "the same processor")
NPU = Device("npu:z", "npu", "z", "without a counter")
WATTS = 20.0


def write_uj(folder: Path, microjoules: int) -> None:
    """As a kernel: no reader ever sees half a number."""
    zone = folder / "intel-rapl:0"
    zone.mkdir(exist_ok=True)
    (zone / "new").write_text(f"{microjoules}\n")
    (zone / "new").replace(zone / "energy_uj")


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(power, "_RAPL", tmp_path)
    write_uj(tmp_path, 0)
    return tmp_path


def test_one_processor_is_counted_once(counters: Path) -> None:
    meter = EnergyMeter.of([CPU, TOO])
    assert meter is not None
    assert len(meter.counters) == 1
    before = meter.read()
    write_uj(counters, 2_500_000)
    assert used_j(before, meter.read()) == pytest.approx(2.5)


def test_what_has_no_counter_makes_the_sum_unknown(counters: Path) -> None:
    assert EnergyMeter.of([CPU, NPU]) is None
    assert EnergyMeter.of([]) is None


def test_a_counter_that_goes_away_or_wraps_is_no_figure(counters: Path) -> None:
    write_uj(counters, 1000)
    meter = EnergyMeter.of([CPU])
    assert meter is not None
    before = meter.read()
    write_uj(counters, 5)
    assert used_j(before, meter.read()) is None
    (counters / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.read() is None
    assert used_j(before, meter.read()) is None


class Heater(WholeModelContender):
    """A contender whose every call takes half a joule."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, 0

    def load(self, model: Path, feeds: Any, options: Any) -> str:
        return ""

    def run(self) -> dict[str, np.ndarray]:
        time.sleep(0.002)
        self.calls += 1
        write_uj(self.folder, 500_000 * self.calls)
        return {}


def described(device: Device) -> dict[str, str]:
    return {name: getattr(device, name) for name in ("id", "kind", "engine", "name", "reality")}


def loaded(heater: Heater, metered: list[Device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ContenderHandler:
    monkeypatch.setattr(contender_process, "make_contender", lambda system: heater)
    write_tensors(tmp_path / "feeds.pb", {})
    handler = ContenderHandler()
    request = {
        "do": "load", "system": "heater", "model": "", "feeds": str(tmp_path / "feeds.pb"), "threads": None,
        "shapes": {}, "settings": {}, "metered": [described(device) for device in metered],
    }  # fmt: skip
    handler(request)
    return handler


def test_a_turn_tells_what_each_of_its_calls_took(
    counters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heater = Heater(counters)
    handler = loaded(heater, [CPU, TOO], tmp_path, monkeypatch)
    before = heater.calls
    turn = handler({"do": "turn", "calls": 3, "items": 0})
    assert isinstance(turn, ContenderTurn)
    assert turn.energy_j == pytest.approx(0.5)
    assert len(turn.calls_s) == 3
    assert heater.calls - before > 3  # a turn too short for a counter goes on, uncounted


def test_without_a_counter_nothing_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "_RAPL", tmp_path / "none")
    heater = Heater(tmp_path)
    handler = loaded(heater, [CPU], tmp_path, monkeypatch)
    before = heater.calls
    turn = handler({"do": "turn", "calls": 3, "items": 0})
    assert isinstance(turn, ContenderTurn)
    assert turn.energy_j is None
    assert heater.calls - before == 4  # one to get into it, and those asked for


@pytest.fixture
def drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose processor draws a constant power, also to the processes that contenders run in."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import time\nfrom trisect.profiles.measuring import power\n"
        f"power._rapl = lambda: lambda: {WATTS} * time.perf_counter()\n"
    )
    monkeypatch.setattr(power, "_rapl", lambda: lambda: WATTS * time.perf_counter())
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TRISECT_PROFILES", str(tmp_path / "profiles"))


def compared(model: Path, objective: Any) -> Comparison:
    return compare(ComparisonRequest(model, "single", "cpu:ort", objective, {"batch": 3}, budget_s=1.0, fresh=True))


def test_a_comparison_by_energy_is_measured_and_sorted(drawing: None, tmp_path: Path) -> None:
    model = write_model(tmp_path / "branches.onnx")
    store_synthetic_profile(power_w=WATTS)
    actual = compared(model, "energy")
    assert actual.is_measured
    energies = [result.energy_j for result in actual.results]
    assert energies == sorted(energies)
    assert {"single:cpu:ort", "ONNX Runtime alone"} <= {result.name for result in actual.results}
    plan = next(result for result in actual.results if result.kind == "strategy")
    assert plan.value == pytest.approx(plan.predicted.energy_j)
    for result in actual.results:
        # Of a machine that draws so much whatever it does, energy is power times time: the mean of the calls, which
        # is at least half their median, and much more where a few calls had to wait for other processes.
        assert 0.25 < result.energy_j / (WATTS * result.latency_s) < 300


def test_energy_is_refused_by_name_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "_RAPL", tmp_path / "none")
    monkeypatch.setenv("TRISECT_PROFILES", str(tmp_path / "profiles"))
    model = write_model(tmp_path / "branches.onnx")
    with pytest.raises(PowerUnknown, match=r"the power of cpu:ort is not measured.*none of these"):
        compared(model, "energy")
    assert not store.default_path().exists()
