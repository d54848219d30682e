"""The crossover between one device and a pair, from curves with a known result."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.browser import CHROMIUM, opened
from trisect.bench.llm.batch_throughput import BatchPoint
from trisect.bench.llm.crossover import crossover
from trisect.llm.phases.phase_profile import DevicePhases, Handover, PhasePoint, PhaseProfile
from trisect.profiles.stored.profile_data import Provenance


def line(start_s: float, per_token_s: float) -> tuple[PhasePoint, ...]:
    return tuple(PhasePoint(n, start_s + n * per_token_s, 0.0) for n in (16, 64, 512))


def profile(*devices: str) -> PhaseProfile:
    """``gpu:x`` reads ten times as quickly, ``cpu:x`` writes twice as quickly; handing over takes 0.1 s."""
    rates = {"cpu:x": (1e-2, 1e-2), "gpu:x": (1e-3, 2e-2)}
    return PhaseProfile(
        "m",
        "fast",
        None,
        Provenance("measured", "", "", "", "", {}, None),
        {d: DevicePhases(d, "1", line(0.0, rates[d][0]), line(rates[d][1], 0.0), 0.0) for d in devices},
        tuple(Handover(a, b, line(0.1, 0.0)) for a in devices for b in devices if a != b),
    )


def test_a_pair_is_faster_once_its_gain_exceeds_the_hand_over() -> None:
    result = crossover(profile("cpu:x", "gpu:x"), context_length=4096, cache_bytes=lambda tokens: 10 * tokens)
    assert len(result.crossings) > 20
    for c in result.crossings:
        read, write = c.prompt_tokens, c.new_tokens - 1
        single = min(read * 1e-2 + write * 1e-2, read * 1e-3 + write * 2e-2)
        pair = min(read * 1e-3 + 0.1 + write * 1e-2, read * 1e-2 + 0.1 + write * 2e-2)
        assert (c.single_s, c.pair_s) == pytest.approx((single, pair))
        assert c.gain == pytest.approx(single / pair)
        assert c.prompt_tokens + c.new_tokens <= 4096
    gains = {(c.prompt_tokens, c.new_tokens): c.gain for c in result.crossings}
    assert gains[16, 1] < 1 < gains[512, 256]


def test_curves_are_rates_of_the_measurements() -> None:
    result = crossover(profile("cpu:x", "gpu:x"), context_length=4096, cache_bytes=lambda tokens: 10 * tokens)
    rates = {(c.device, c.phase): {p.tokens: p.tok_s for p in c.points} for c in result.curves}
    assert rates["gpu:x", "prefill"][512] == pytest.approx(1000)
    assert rates["gpu:x", "decode"][16] == pytest.approx(50)
    assert result.handovers[0].size_bytes == (160, 640, 5120)


def test_one_device_has_curves_and_nothing_to_cross() -> None:
    result = crossover(profile("cpu:x"), context_length=100, cache_bytes=lambda tokens: 10 * tokens)
    assert (len(result.curves), result.crossings) == (2, ())


def test_the_picture_holds_the_figures_and_no_markup_of_others(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from trisect.bench.report.crossover_page import write_crossover

    result = crossover(profile("cpu:x", "gpu:x"), context_length=4096, cache_bytes=lambda tokens: 10 * tokens)
    write_crossover("</script><script>alert(1)</script>", result, tmp_path / "picture.html")
    text = (tmp_path / "picture.html").read_text()
    assert "alert(1)</script>" not in text
    assert '"device":"gpu:x"' in text
    assert "http-equiv" in text
    assert 'src="http' not in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("devices", [("cpu:x", "gpu:x"), ("cpu:x",)], ids=["two devices", "one device"])
def test_the_picture_opens_in_a_browser_without_a_word_on_the_console(devices: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from trisect.bench.report.crossover_page import write_crossover

    result = crossover(profile(*devices), context_length=4096, cache_bytes=lambda tokens: 10 * tokens)
    points = [BatchPoint(d, n, 64, 1000.0 + n, 100.0 * n) for d in devices for n in (1, 2, 4)]
    write_crossover("m", result, tmp_path / "picture.html", points)
    shown, console = opened(tmp_path / "picture.html")
    assert console == []
    assert 'data-ready="true"' in shown
    rendered = shown[: shown.index('<script id="data"')]
    drawn = ["prefill", "decode", "batch-prefill", "batch-decode", *(["gain", "handover"] if len(devices) > 1 else [])]
    for plot in drawn:
        start = rendered.index(f'id="{plot}"')
        assert "main-svg" in rendered[start : start + 2000], plot
    assert ("Only one device: no pairs." in rendered) == (len(devices) == 1)
