"""Devices are chosen at once: from this model's measurements, from another model's, or by what engines can do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.llm import tiny_llms as kit
from trisect.llm.bundle import Bundle
from trisect.llm.generate import open_bundle
from trisect.llm.phases.phase_profile import (
    SCHEMA,
    DevicePhases,
    Handover,
    PhasePoint,
    PhaseProfile,
    phases_path,
    save_phases,
)
from trisect.llm.phases.quick_choice import choose_at_once
from trisect.profiles.stored.provenance import provenance
from trisect.runtime import engines
from trisect.runtime.errors import EngineFailed, UnknownDevice

ORT, OPENVINO = kit.device("cpu:ort"), kit.device("cpu:openvino")


@pytest.fixture
def bundle(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(engines, "discover", lambda: [OPENVINO, ORT])
    return open_bundle(gguf)


def line(time_s: float) -> tuple[PhasePoint, ...]:
    """A time in proportion to the tokens."""
    return (PhasePoint(1, time_s, 0.0), PhasePoint(1000, 1000 * time_s, 0.0))


def profile(bundle: Bundle, *, model: str, size: int = 1) -> PhaseProfile:
    """OpenVINO reads prompts five times as fast, ONNX Runtime generates five times as fast."""
    phases = {
        device.id: DevicePhases(device.name, device.engine_version, line(prefill), (PhasePoint(1, decode, 0.0),), 1.0)
        for device, prefill, decode in ((ORT, 0.005 * size, 0.010 * size), (OPENVINO, 0.001 * size, 0.050 * size))
    }
    handovers = tuple(Handover(a.id, b.id, line(1e-5)) for a, b in ((ORT, OPENVINO), (OPENVINO, ORT)))
    return PhaseProfile(
        model, "fast", None, provenance([ORT, OPENVINO], None), phases, handovers,
        flops_per_token=size * bundle.flops_per_token, decode_bytes_per_token=size * bundle.decode_bytes_per_token,
        cache_bytes_per_token=bundle.cache_bytes_per_token,
    )  # fmt: skip


def store(bundle: Bundle, measured: PhaseProfile) -> None:
    path = phases_path(bundle, "fast", None)
    save_phases(measured, path.with_name(path.name.replace(bundle.key, measured.model)))


def test_without_any_measurement_one_device_that_extends_the_cache_in_place(bundle: Bundle) -> None:
    choice = choose_at_once(bundle, prompt_tokens=100, new_tokens=10)
    assert (choice.prefill, choice.decode) == (ORT, ORT)
    assert choice.predictions == ()
    assert "not measured" in choice.notes[0]
    assert "trisect profile --model" in choice.notes[0]
    named = choose_at_once(bundle, "cpu:openvino", "cpu:ort", prompt_tokens=100, new_tokens=10)
    assert (named.prefill, named.decode, named.notes) == (OPENVINO, ORT, ())
    half = choose_at_once(bundle, "cpu:openvino", prompt_tokens=100, new_tokens=10)
    assert (half.prefill, half.decode) == (OPENVINO, OPENVINO)


def test_its_own_measurements_decide(bundle: Bundle) -> None:
    store(bundle, profile(bundle, model=bundle.key))
    choice = choose_at_once(bundle, prompt_tokens=100, new_tokens=11)
    assert (choice.prefill, choice.decode, choice.notes) == (OPENVINO, ORT, ())
    assert choice.predictions[0].end_to_end_s == pytest.approx(100 * 0.001 + 100 * 1e-5 + 10 * 0.010)
    assert len(choice.predictions) == 4


def test_a_device_that_was_not_measured_is_named_and_left_out(bundle: Bundle) -> None:
    measured = profile(bundle, model=bundle.key)
    store(bundle, replace(measured, devices={OPENVINO.id: measured.devices[OPENVINO.id]}, handovers=()))
    choice = choose_at_once(bundle, prompt_tokens=100, new_tokens=11)
    assert (choice.prefill, choice.decode) == (OPENVINO, OPENVINO)
    assert choice.notes[0].startswith("cpu:ort is not measured for this model")


def test_measurements_of_another_model_are_scaled(bundle: Bundle) -> None:
    store(bundle, profile(bundle, model="0123456789abcdef", size=10))
    choice = choose_at_once(bundle, prompt_tokens=100, new_tokens=11)
    assert (choice.prefill, choice.decode) == (OPENVINO, ORT)
    assert choice.predictions[0].prefill_s == pytest.approx(0.1)
    assert choice.predictions[0].decode_s == pytest.approx(0.1)
    assert "another model" in choice.notes[0]
    # Of several models, the nearest in size.
    store(bundle, replace(profile(bundle, model="fedcba9876543210", size=2), devices={}, handovers=()))
    assert choose_at_once(bundle, prompt_tokens=100, new_tokens=11).predictions == choice.predictions


def test_damaged_files_of_other_models_are_passed_over(bundle: Bundle) -> None:
    path = phases_path(bundle, "fast", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name.replace(bundle.key, "0123456789abcdef")).write_text("{")
    assert choose_at_once(bundle, prompt_tokens=100, new_tokens=11).predictions == ()


def test_devices_that_cannot_run_the_model(bundle: Bundle) -> None:
    in_place = replace(bundle, graphs=tuple(graph for graph in bundle.graphs if graph.cache == "in-place"))
    assert choose_at_once(in_place, prompt_tokens=5, new_tokens=5).decode == ORT
    with pytest.raises(EngineFailed, match=r"no device of 'cpu:openvino' can run prefill"):
        choose_at_once(in_place, "cpu:openvino", prompt_tokens=5, new_tokens=5)
    with pytest.raises(UnknownDevice):
        choose_at_once(bundle, "gpu:cuba", prompt_tokens=5, new_tokens=5)


def test_measurements_that_say_nothing_of_this_model(bundle: Bundle) -> None:
    store(bundle, replace(profile(bundle, model="0123456789abcdef"), schema=SCHEMA + 1))
    assert choose_at_once(bundle, prompt_tokens=100, new_tokens=11).predictions == ()
    store(bundle, profile(bundle, model="0123456789abcdef"))
    assert choose_at_once(bundle, prompt_tokens=100, new_tokens=11).predictions
    unknown = replace(bundle, flops_per_token=0)
    assert choose_at_once(unknown, prompt_tokens=100, new_tokens=11).predictions == ()
