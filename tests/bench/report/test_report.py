"""The HTML report: whole, self-contained, and deaf to markup in anybody's names."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.bench.browser import CHROMIUM, opened
from tests.bench.comparing.comparisons import DEVICES, EVIL, store_synthetic_profile, synthetic_comparison, write_model
from trisect.bench import report
from trisect.bench.report.report_data import report_data
from trisect.partitioner.graph.model_graph import Graph
from trisect.runtime.errors import InvalidInput, InvalidModel, StorageFailed

pytest.importorskip("plotly", reason="reports need plotly: pip install 'trisect[report]'")


class Page(HTMLParser):
    """Elements with their attributes, and the texts of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script":
            self.scripts[-1] += data

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


def make(folder: Path, *, energy: bool = False, name: str = "", layers: int = 6) -> str:
    model = write_model(folder / "branches.onnx", layers, prefix=name)
    nodes = list(Graph.read(model, {"batch": 3}).nodes)
    comparison = synthetic_comparison(model, nodes, energy=energy, name=name)
    report.write_report(comparison, folder / "report.html")
    return (folder / "report.html").read_text("utf-8")


@pytest.fixture(scope="module", autouse=True)
def _profile(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRISECT_PROFILES", str(tmp_path_factory.mktemp("profiles")))
        store_synthetic_profile()
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make(tmp_path_factory.mktemp("report"))


def test_holds_what_was_compared(text: str) -> None:
    page = Page(text)
    data = page.data
    assert [r["name"] for r in data["comparison"]["results"]] == [
        "auto", "heft", "opclass", "exact", "mine", "A peer", "broken",
    ]  # fmt: skip
    assert len(data["drawing"]["names"]) == 25
    assert len(data["drawing"]["edges"]) == 24
    assert {each["name"] for each in data["timelines"]} == {"auto", "heft", "opclass", "exact", "mine", "A peer"}
    assert set(data["timelines"][0]["placement"]) == {0, 1, 2}
    matmul = next(w for w in data["op_classes"] if w["op_class"].startswith("mat"))
    assert matmul["nodes"] == 12
    assert matmul["flops"] == 12 * 2 * 3 * 16 * 16
    assert data["read_bandwidth_bytes_per_s"] == 1e10
    assert "failed: no" in text
    assert "<small>1.8 to 2.5</small>" in text  # the interval of the first prediction
    assert "same placement: random" in text
    assert "Energy was not measured" in text


def test_needs_no_network_and_holds_the_library_once(text: str) -> None:
    page = Page(text)
    for tag, attributes in page.elements:
        assert not {"src", "action", "srcset"} & set(attributes), tag
        if tag == "link":
            assert (attributes["href"] or "").startswith("data:")
    assert len(page.scripts) == 3
    assert text.count("plotly.js v") <= 1
    assert len(text) < 7_000_000
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    own = page.scripts[2]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|https?://", own)


def test_names_are_never_markup(tmp_path: Path) -> None:
    text = make(tmp_path, name=EVIL)
    page = Page(text)
    tags = [tag for tag, _ in page.elements]
    assert "img" not in tags
    assert tags.count("script") == 3
    assert "49" not in [cell.strip() for cell in re.findall(r">([^<]*)<", text[: text.index("<script")])]
    assert f"mine{EVIL}" in [r["name"] for r in page.data["comparison"]["results"]]
    assert any(EVIL in name for name in page.data["drawing"]["names"])


def test_infinities_do_not_break_the_data(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx")
    comparison = synthetic_comparison(model, list(Graph.read(model, {"batch": 3}).nodes))
    wrong = replace(comparison.results[1], max_abs=float("inf"), max_rel=float("nan"), gap=float("inf"), ok=False)
    comparison = replace(comparison, results=(comparison.results[0], wrong))
    text = report.render(report_data(comparison))
    assert Page(text).data["comparison"]["results"][1]["max_abs"] is None
    assert "<strong>wrong</strong>" in text


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_model(tmp_path / "m.onnx")
    comparison = synthetic_comparison(model, list(Graph.read(model, {"batch": 3}).nodes))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed):
        report.write_report(comparison, tmp_path / "file" / "report.html")
    model.unlink()
    with pytest.raises(InvalidModel):
        report.write_report(comparison, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    monkeypatch.setattr(report, "_PLOTLY", "no_such_package")
    with pytest.raises(InvalidInput, match="report"):
        report.write_report(comparison, tmp_path / "report.html")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("name", ["", EVIL], ids=["plain", "hostile"])
def test_opens_in_a_browser_without_a_word_on_the_console(name: str, tmp_path: Path) -> None:
    make(tmp_path, energy=True, name=name)
    shown, console = opened(tmp_path / "report.html", "#result=heft&find=relu")
    assert console == []
    assert 'data-ready="6"' in shown
    assert "12 of 25 nodes" in shown
    rendered = shown[: shown.index('<script id="data"')]
    for plot in ("ranking", "scatter", "pareto", "gantt", "roofline"):
        start = rendered.index(f'id="{plot}"')
        assert "main-svg" in rendered[start : start + 2000], plot
    assert all(device.id in rendered for device in DEVICES)
    assert "<img" not in rendered
    assert rendered.count("<b>{{") == 0


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_five_thousand_nodes_open_too(tmp_path: Path) -> None:
    make(tmp_path, layers=1250)
    shown, console = opened(tmp_path / "report.html", "#result=auto&find=sum")
    assert console == []
    assert "1 of 5001 nodes" in shown
