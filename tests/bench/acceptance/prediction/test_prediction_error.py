"""The error of predictions against figures computed by hand, and end to end on a small model."""

from __future__ import annotations

from pathlib import Path

import pytest

from trisect.bench.acceptance.prediction import prediction_error
from trisect.bench.acceptance.prediction.prediction_error import bench_predict, kendall_tau, summarise
from trisect.bench.acceptance.prediction.split_predictions import ModelRuns, SplitRun
from trisect.bench.model_packages import ModelFile
from trisect.network_fitting import fit_on_networks
from trisect.partitioner.costs import kernel_breakdown, network_measurement
from trisect.profiles.stored.segment_store import SegmentStore
from trisect.profiles.synthetic_networks import synthetic_network
from trisect.runtime.errors import InvalidInput, InvalidModel, ProfileMissing


def run(split: str, measured_s: float, again_s: float, unseen_s: float) -> SplitRun:
    return SplitRun(split, 3, measured_s, again_s, unseen_s, unseen_s, measured_s, 0.1)


def test_ranks_count_only_pairs_that_differ() -> None:
    runs = [run("0", 1.0, 1.0, 1.0), run("1", 1.02, 1.02, 0.5), run("2", 2.0, 2.0, 3.0), run("3", 3.0, 3.0, 2.0)]
    # 0-1 differ too little; 0-2, 0-3, 1-2, 1-3 are right, 2-3 is wrong.
    assert kendall_tau([runs], lambda r: r.unseen_s, 0.05) == pytest.approx(3 / 5)
    assert kendall_tau([runs[:2]], lambda r: r.unseen_s, 0.05) is None
    assert kendall_tau([[r] for r in runs], lambda r: r.unseen_s, 0.05) is None


def test_figures_are_those_of_the_cuts_and_the_strictest_knowledge() -> None:
    runs = (run("cpu:ort", 1.0, 1.0, 9.0), run("0", 1.0, 1.1, 1.05), run("1", 2.0, 2.0, 3.0))
    result = summarise([ModelRuns("m", 10, runs, 1e-6)], {"cpu:ort": 5}, {})
    assert result.splits == 2
    assert result.median_abs_error == pytest.approx(0.25)
    assert result.repeatability == pytest.approx(0.05)
    assert result.within_two_deviations == 0.5
    assert [e.known for e in result.errors] == [
        "nothing of the model",
        "the model whole on each device",
        "that, and its other splits",
    ]
    assert not result.met


def test_a_model_is_cut_predicted_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = synthetic_network(10)
    (tmp_path / "made.onnx").write_bytes(content)
    monkeypatch.setattr(
        prediction_error, "known_files", lambda: {"made.onnx": ModelFile("made.onnx", len(content), "0" * 64)}
    )
    monkeypatch.setenv("TRISECT_PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setattr(network_measurement, "_DURATION_MIN_S", 0.002)
    monkeypatch.setattr(kernel_breakdown, "_MIDDLE_ROWS", (64,))
    messages: list[str] = []
    with pytest.raises(ProfileMissing, match=r"too few to fit a cost model; run `trisect profile --networks"):
        bench_predict(tmp_path, splits=2, budget_s=1e-6)
    store = SegmentStore()
    while min([len(rows) for rows in store.devices.values()], default=0) < 40:
        store = fit_on_networks("cpu:ort,cpu:openvino", budget_s=1.0)
    result = bench_predict(
        tmp_path, splits=2, budget_s=1e-6, rounds=1, progress=lambda done, all_, what: messages.append(what)
    )
    assert not result.left_out
    assert (result.models, result.splits) == (1, 2)
    assert [r.split for r in result.per_model[0].runs] == ["cpu:ort", "cpu:openvino", "0", "1"]
    assert all(count >= 30 for count in result.learned_from.values())
    assert result.repeatability >= 0
    assert "made.onnx" in messages
    assert (
        bench_predict(tmp_path, splits=2, budget_s=1e-6, rounds=1) == result
    )  # cached: neither measured nor run again


def test_invalid_input_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is one device"):
        bench_predict(tmp_path, devices="cpu:ort")
    with pytest.raises(InvalidModel, match="no known model in"):
        bench_predict(tmp_path)
