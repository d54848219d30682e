"""Devices are chosen from measurements; those that cannot run the model are excluded with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import trisect
from tests.llm import tiny_llms as kit
from trisect.llm.bundle import Bundle
from trisect.llm.generate import open_bundle
from trisect.llm.phases import phase_measurement
from trisect.llm.phases.device_choice import choose_devices
from trisect.llm.phases.phase_profile import phases_path
from trisect.runtime import engines
from trisect.runtime.errors import EngineFailed, InvalidProfile, UnknownDevice

ORT, OPENVINO = "cpu:ort", "cpu:openvino"


def test_one_choice_left_open_is_measured(gguf: Path, measurements: list[list[str]]) -> None:
    bundle = open_bundle(gguf)
    choice = choose_devices(bundle, OPENVINO, "auto", prompt_tokens=20, new_tokens=8, threads=1)
    assert len(measurements) == 1
    assert {p.prefill for p in choice.predictions} == {OPENVINO}
    assert {p.decode for p in choice.predictions} == {d.id for d in engines.find_hardware("auto")}
    forced = choose_devices(bundle, OPENVINO, ORT, prompt_tokens=20, new_tokens=8, threads=1)
    assert [(p.prefill, p.decode) for p in forced.predictions] == [(OPENVINO, ORT)]
    alone = choose_devices(bundle, ORT, ORT, prompt_tokens=20, new_tokens=8, threads=1)
    assert alone.notes == ()  # there are others; they were not asked for
    assert len(measurements) == 1


@pytest.mark.parametrize("only", [ORT, OPENVINO])
def test_one_engine_is_enough_and_a_note_says_so(
    gguf: Path, monkeypatch: pytest.MonkeyPatch, measurements: list[list[str]], only: str
) -> None:
    monkeypatch.setattr(engines, "discover", lambda: [kit.device(only)])
    bundle = open_bundle(gguf)
    choice = choose_devices(bundle, prompt_tokens=20, new_tokens=8, threads=1)
    assert choice.prefill.id == choice.decode.id == only
    assert any(only in note and "nothing to split over" in note for note in choice.notes)
    answer = trisect.generate(gguf, [1, 2, 3], max_new_tokens=4, threads=1)
    assert (answer.stats.prefill, answer.stats.decode, answer.stats.kv_bytes) == (only, only, 0)
    with pytest.raises(UnknownDevice, match=f"there are: {only}"):
        trisect.generate(gguf, [1], prefill=ORT if only == OPENVINO else OPENVINO)


def test_a_failing_device_is_left_out_with_a_note(
    gguf: Path, monkeypatch: pytest.MonkeyPatch, measurements: list[list[str]]
) -> None:
    real = phase_measurement.load_gated_runner

    def load(bundle: Bundle, device: Any, **options: Any) -> Any:
        if device.id == OPENVINO:
            raise EngineFailed("cpu:openvino cannot load in_place.onnx: no driver")
        return real(bundle, device, **options)

    monkeypatch.setattr(phase_measurement, "load_gated_runner", load)
    bundle = open_bundle(gguf)
    choice = choose_devices(bundle, prompt_tokens=20, new_tokens=8, threads=1)
    assert choice.prefill.id == choice.decode.id == ORT
    assert any("cpu:openvino is left out" in note and "no driver" in note for note in choice.notes)
    with pytest.raises(EngineFailed, match=r"no device of 'cpu:openvino' can run prefill.*no driver"):
        choose_devices(bundle, OPENVINO, "auto", prompt_tokens=20, new_tokens=8, threads=1)


def test_a_damaged_profile_is_a_clear_error(gguf: Path, measurements: list[list[str]]) -> None:
    bundle = open_bundle(gguf)
    choose_devices(bundle, prompt_tokens=20, new_tokens=8, threads=1)
    path = phases_path(bundle, "fast", 1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InvalidProfile, match=r"malformed.*move it away; it is measured again"):
        choose_devices(bundle, prompt_tokens=20, new_tokens=8, threads=1)
    path.rename(path.with_suffix(".old"))
    assert choose_devices(bundle, prompt_tokens=20, new_tokens=8, threads=1).predictions
    assert len(measurements) == 2
