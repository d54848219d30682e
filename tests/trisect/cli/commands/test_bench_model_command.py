"""The command ``trisect bench MODEL.onnx``."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench.comparing.comparisons import synthetic_comparison, write_model
from trisect.bench.comparing import compare
from trisect.bench.comparing.compare import ComparisonRequest
from trisect.bench.comparing.comparison import Comparison
from trisect.bench.comparing.comparison_formats import as_csv, as_trace
from trisect.cli import main
from trisect.partitioner.graph.model_graph import Graph
from trisect.profiles.measuring import power


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "branches.onnx")


@pytest.fixture(scope="module")
def synthetic(onnx_file: Path) -> Comparison:
    return synthetic_comparison(onnx_file, list(Graph.read(onnx_file, {"batch": 3}).nodes))


@pytest.fixture
def requests(synthetic: Comparison, monkeypatch: pytest.MonkeyPatch) -> list[ComparisonRequest]:
    """Returns a synthetic comparison instead of a measured one; holds the requests."""
    received: list[ComparisonRequest] = []

    def return_synthetic(request: ComparisonRequest, progress: Any) -> Comparison:
        received.append(request)
        return synthetic

    monkeypatch.setattr(compare, "compare", return_synthetic)
    return received


def test_the_subcommand_model_can_be_omitted(
    onnx_file: Path, requests: list[ComparisonRequest], capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["bench"], ["bench", "model"], ["bench", "--devices", "cpu:ort"]):
        assert main([*words, str(onnx_file), "--budget", "2m", "--shape", "batch=3", "--threads", "2"]) == 0
    assert [request.model for request in requests] == [onnx_file] * 3
    assert [request.devices for request in requests] == ["auto", "auto", "cpu:ort"]
    first = requests[0]
    assert (first.strategies, first.objective, first.shapes) == ("all", "latency", {"batch": 3})
    assert (first.budget_s, first.threads, first.peers, first.fresh) == (120.0, 2, True, False)


def test_the_group_shows_its_help_and_refuses_misspelt_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "-h"]) == 0
    help_text = capsys.readouterr().out
    assert "MODEL.onnx" in help_text
    assert all(f" {name} " in help_text for name in ("model", "llm", "study", "adversary"))
    assert "plan-speed" not in help_text  # a measurement of our own targets
    assert main(["bench", "plan-sped"]) == 2
    assert "plan-speed" in capsys.readouterr().err
    assert main(["bench", "no-such-file.onnx"]) == 2
    assert "no-such-file.onnx" in capsys.readouterr().err


def test_results_as_a_table(
    onnx_file: Path, requests: list[ComparisonRequest], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(onnx_file)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    best = next(line for line in lines if line.lstrip().startswith("* auto"))
    assert "2 ms ±1.5%" in best
    assert "1.8-2.5 ms" in best
    assert "energy" not in out  # measured of none: a note says so
    assert "[simulated]" in best
    assert "1, 0.001 MB" in best
    assert any("A peer (peer)" in line and "9 ms ±?" in line for line in lines)
    assert "broken failed: no" in err
    assert "not measured" in err
    assert "speed varied by 3 %" in err


@pytest.mark.parametrize("options", [["--json"], ["--format", "json"]])
def test_one_json_document(
    options: list[str],
    onnx_file: Path,
    requests: list[ComparisonRequest],
    synthetic: Comparison,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", str(onnx_file), *options]) == 0
    document = json.loads(capsys.readouterr().out)
    first, expected = document["results"][0], synthetic.results[0]
    for name in (
        "name",
        "latency_s",
        "throughput_hz",
        "energy_j",
        "peak_bytes",
        "value",
        "value_low",
        "bound",
        "gap",
        "max_abs",
    ):
        assert first[name] == getattr(expected, name)
    assert first["predicted"]["source"] == "predicted"
    assert [first["value_low"], first["value_high"]] == first["predicted"]["latency_interval_s"] != [None, None]
    assert first["trace"]["source"] == "measured"
    assert len(first["trace"]["events"]) == 3
    assert document["noise"]["speed_spread"] == 0.03


def test_markdown_and_csv(
    onnx_file: Path, requests: list[ComparisonRequest], synthetic: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(onnx_file), "--format", "md"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(synthetic.results)
    assert len({line.count("|") for line in lines}) == 1
    assert main(["bench", str(onnx_file), "--format", "csv"]) == 0
    text = capsys.readouterr().out
    assert text == as_csv(synthetic)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [float(row["latency_s"]) for row in rows[:5]] == [r.latency_s for r in synthetic.results[:5]]
    assert rows[0]["energy_j"] == ""
    assert float(rows[0]["predicted_latency_s"]) == pytest.approx(0.002)
    assert float(rows[0]["predicted_latency_high_s"]) == float(rows[0]["value_high"]) == pytest.approx(0.0025)
    assert rows[1]["predicted_latency_high_s"] == rows[1]["value_high"] == ""


def test_traces_are_valid_for_perfetto(synthetic: Comparison) -> None:
    document = as_trace(synthetic)
    events = document["traceEvents"]
    names: dict[int, str] = {}
    tracks: dict[tuple[int, int], str] = {}
    slices = defaultdict(list)
    pending: dict[tuple[str, str], float] = {}
    for event in events:
        assert type(event["pid"]) is int
        assert type(event["tid"]) is int
        if event["ph"] == "M":
            target: Any = names if event["name"] == "process_name" else tracks
            target[event["pid"] if target is names else (event["pid"], event["tid"])] = event["args"]["name"]
        elif event["ph"] == "X":
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "b":
            pending[event["cat"], event["id"]] = event["ts"]
        else:
            assert event["ph"] == "e"
            assert event["ts"] >= pending.pop((event["cat"], event["id"]))
    assert not pending
    assert len(set(names.values())) == len(names) == 5 * 2 + 1
    assert set(slices) <= set(tracks)
    assert {"cpu:ort", "gpu:synthetic"} == set(tracks.values())
    for spans in slices.values():  # slices of one track must not overlap
        assert all(end <= start + 1e-9 for (_, end), (start, _) in zip(sorted(spans), sorted(spans)[1:], strict=False))
    json.dumps(document)


def test_energy_is_shown_where_it_was_measured(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = list(Graph.read(onnx_file, {"batch": 3}).nodes)
    counted = replace(synthetic_comparison(onnx_file, nodes, energy=True), objective="energy")
    monkeypatch.setattr(compare, "compare", lambda *a, **o: counted)
    assert main(["bench", str(onnx_file), "--objective", "energy"]) == 0
    out, err = capsys.readouterr()
    assert "sorted by energy" in out
    assert "predicted energy" in out
    assert "50 mJ" in next(line for line in out.splitlines() if line.lstrip().startswith("* auto"))
    assert "idle power included" in err
    assert "--strategy auto --objective energy" in err


def test_energy_without_a_counter_is_refused_by_name(
    onnx_file: Path,
    two_devices: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(power, "_RAPL", tmp_path)
    words = ["--devices", two_devices, "--shape", "batch=3", "--objective", "energy"]
    assert main(["bench", str(onnx_file), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert all(device in line for device in two_devices.split(","))
    assert "choose another objective" in line


def test_an_interrupt_prints_the_results_so_far(
    onnx_file: Path, synthetic: Comparison, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "compare", lambda *a, **o: replace(synthetic, interrupted=True))
    assert main(["bench", str(onnx_file)]) == 130
    out, err = capsys.readouterr()
    assert "* auto" in out
    assert err.endswith("interrupted\n")


def test_invalid_input_is_refused_before_measuring(
    onnx_file: Path, requests: list[ComparisonRequest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["--report", str(tmp_path / "none" / "r.html")],
        ["--report", str(tmp_path)],
        ["--trace", str(tmp_path / "none" / "t.json")],
        ["--budget", "soon"],
        ["--shape", "batch"],
        ["--format", "xml"],
        ["--feeds", str(tmp_path / "none.npz")],
    ):
        assert main(["bench", str(onnx_file), *words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
    assert requests == []


def test_strategies_of_a_users_file(
    onnx_file: Path, two_devices: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import trisect\n@trisect.strategy('of-a-file')\ndef mine(problem):\n"
        "    return {n: min(problem.devices, key=lambda d: problem.time(n, d)) for n in problem.graph}\n"
    )
    words = ["--load", str(file), "--strategies", "of-a-file", "--no-peers", "--shape", "batch=3", "--budget", "1s"]
    assert main(["bench", str(onnx_file), "--devices", two_devices, *words, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert (result["name"], result["failed"]) == ("of-a-file", None)
    assert main(["bench", str(onnx_file), "--load", str(tmp_path / "none.py")]) == 2
    assert "not a Python file" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--batch", "two"], ["--batch", "1,0"], ["--prompt-tokens", "-1"]])
def test_sizes_of_batches_and_prompts_are_checked_before_a_model_is_read(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "llm", "no-such-model.gguf", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: invalid {words[0]} '{words[1]}': expected positive integers")


def test_a_real_comparison(
    onnx_file: Path, two_devices: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly", reason="reports need plotly: pip install 'trisect[report]'")
    report, trace = tmp_path / "r.html", tmp_path / "t.json"
    words = ["--devices", two_devices, "--strategies", "single,zigzag", "--shape", "batch=3", "--budget", "1s"]
    assert main(["bench", str(onnx_file), *words, "--report", str(report), "--trace", str(trace), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert all(result["failed"] is None and result["ok"] for result in document["results"])
    assert {"zigzag", "ONNX Runtime alone", "OpenVINO alone"} <= {result["name"] for result in document["results"]}
    assert json.loads(trace.read_text())["traceEvents"]
    assert "zigzag" in report.read_text("utf-8")


def test_without_the_acceptance_measurements_no_target_is_checked() -> None:
    """As in an installed wheel: the commands are complete, and `bench llm` has no targets."""
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name.startswith('trisect.bench.acc') else find(name)\n"
        "sys.modules['trisect.bench.acceptance'] = None\n"
        "from trisect.cli import main\n"
        "from trisect.cli.commands.bench_command import _check_targets\n"
        "assert _check_targets(None, []) == ()\n"
        "assert main(['bench', 'simulate', '--json']) == 2\n"
        "sys.exit(main(['bench', '-h']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "study" in done.stdout
