"""The phases of a language model are measured at every length on every device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.llm import tiny_llms as kit
from tests.llm.tiny_llms import TinyLlms
from trisect.llm.bundle import Bundle, PhaseGraph
from trisect.llm.phases import phase_measurement as phases
from trisect.llm.phases.phase_measurement import PhaseScope, is_measured, measure_phases
from trisect.llm.phases.phase_profile import PhaseProfile
from trisect.profiles.stored.provenance import provenance
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed

DEVICES = [kit.device("cpu:ort"), kit.device("cpu:openvino")]


@pytest.fixture(scope="module")
def bundle(tiny_llms: TinyLlms) -> Bundle:
    return tiny_llms.get("llama", "Q4_1").bundle


@pytest.fixture(scope="module")
def profile(bundle: Bundle) -> PhaseProfile:
    return measure_phases(bundle, DEVICES, threads=1, scope=PhaseScope(rounds=2))


def test_everything_is_measured(bundle: Bundle, profile: PhaseProfile) -> None:
    assert profile.model == bundle.key
    assert (profile.precision, profile.threads) == ("fast", 1)
    assert list(profile.devices) == [device.id for device in DEVICES]
    for device in DEVICES:
        measured = profile.devices[device.id]
        assert (measured.name, measured.engine_version) == (device.name, device.engine_version)
        assert [point.tokens for point in measured.prefill] == [1, 16, 64, 128]  # the context is of 256
        assert [point.tokens for point in measured.decode] == [16]
        assert all(point.time_s > 0 and point.spread >= 0 for point in (*measured.prefill, *measured.decode))
        assert measured.load_s > 0
    pairs = [(handover.source, handover.target) for handover in profile.handovers]
    assert sorted(pairs) == [("cpu:openvino", "cpu:ort"), ("cpu:ort", "cpu:openvino")]
    for handover in profile.handovers:
        assert [point.tokens for point in handover.points] == [1, 16, 64, 128]
        assert all(point.time_s > 0 for point in handover.points)
    assert profile.provenance.source == "measured"
    assert set(profile.provenance.engines) == {"ort", "openvino"}


def test_progress_counts_to_its_end(bundle: Bundle) -> None:
    messages: list[tuple[int, int, str]] = []
    measure_phases(
        bundle, DEVICES[:1], threads=1, scope=PhaseScope(rounds=1), progress=lambda *step: messages.append(step)
    )
    assert [done for done, _, _ in messages] == list(range(1, messages[-1][1] + 1))
    assert {"loading on cpu:ort", "prefill on cpu:ort", "decode on cpu:ort"} == {what for _, _, what in messages}


def test_only_what_is_asked_is_measured(bundle: Bundle) -> None:
    scope = PhaseScope(up_to_tokens=20, rounds=1)
    short = measure_phases(bundle, DEVICES, threads=1, scope=scope)
    for device in short.devices.values():
        assert [point.tokens for point in device.prefill] == [1, 16, 64]
        assert [point.tokens for point in device.decode] == [16]
    assert is_measured(short, bundle, DEVICES, scope)
    assert not is_measured(short, bundle, DEVICES, PhaseScope())
    # What is known is not measured again.
    longer = measure_phases(bundle, DEVICES, threads=1, scope=PhaseScope(rounds=1), known=short)
    for id_, device in longer.devices.items():
        assert [point.tokens for point in device.prefill] == [1, 16, 64, 128]
        assert device.prefill[:3] == short.devices[id_].prefill
        assert device.decode == short.devices[id_].decode


def test_a_budget_leaves_out_long_prompts(bundle: Bundle) -> None:
    scope = PhaseScope(budget_s=0.0)
    profile = measure_phases(bundle, DEVICES[:1], threads=1, scope=scope)
    assert [point.tokens for point in profile.devices["cpu:ort"].prefill] == [1, 16]
    assert [point.tokens for point in profile.devices["cpu:ort"].decode] == [16]


def test_an_interrupt_keeps_what_was_measured(bundle: Bundle) -> None:
    recorded: list[PhaseProfile] = []

    def interrupt(done: int, total: int, text: str) -> None:
        if text == "decode on cpu:ort":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_phases(
            bundle, DEVICES, threads=1, scope=PhaseScope(rounds=1), checkpoint=recorded.append, progress=interrupt
        )
    for device in recorded[-1].devices.values():
        assert [point.tokens for point in device.prefill] == [1, 16, 64, 128]
        assert device.decode == ()
    messages: list[str] = []
    measure_phases(
        bundle, DEVICES, threads=1, scope=PhaseScope(rounds=1), known=recorded[-1],
        progress=lambda done, total, text: messages.append(text),
    )  # fmt: skip
    assert "decode on cpu:ort" in messages
    assert "prefill on cpu:ort" not in messages


def test_one_device_hands_nothing_over(bundle: Bundle) -> None:
    assert measure_phases(bundle, DEVICES[1:], threads=1, scope=PhaseScope(rounds=1)).handovers == ()


@pytest.mark.parametrize("context", [14, 16, 20, 100])
def test_short_contexts(tiny_llms: TinyLlms, context: int) -> None:
    short = tiny_llms.get("llama", "F32", metadata={"llama.context_length": context}).bundle
    result = measure_phases(short, DEVICES, threads=1, scope=PhaseScope(rounds=1))
    for measured in result.devices.values():
        assert all(point.tokens < context for point in (*measured.prefill, *measured.decode))


def test_a_device_that_cannot_is_named(bundle: Bundle) -> None:
    in_place = replace(bundle, graphs=(PhaseGraph("in_place.onnx", cache="in-place"),))
    with pytest.raises(EngineFailed, match="cpu:openvino cannot extend a KV cache in place"):
        measure_phases(in_place, DEVICES, threads=1, scope=PhaseScope(rounds=1))


def test_runners_are_closed_whatever_happens(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    real = phases.load_gated_runner

    def load(bundle: Bundle, device: Device, **options: Any) -> Any:
        if device.engine == "openvino":
            raise EngineFailed("cpu:openvino is out of order")
        runner = real(bundle, device, **options)
        monkeypatch.setattr(runner, "close", lambda: closed.append(device.id))
        return runner

    monkeypatch.setattr(phases, "load_gated_runner", load)
    with pytest.raises(EngineFailed, match="out of order"):
        measure_phases(bundle, DEVICES, threads=1, scope=PhaseScope(rounds=1))
    assert closed == ["cpu:ort"]


def test_provenance_describes_this_machine() -> None:
    result = provenance(DEVICES, 3)
    assert result.threads == 3
    assert result.engines == {device.engine: device.engine_version for device in DEVICES}
    assert result.cpu
    assert result.date.endswith("+00:00")
