"""Devices that cannot run a language model are refused before anything is imported, measured or loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.llm import tiny_llms as kit
from tests.llm.tiny_llms import TinyLlms
from trisect.llm import generate as generate_module
from trisect.llm.device_abilities import DeviceAbilities, able_devices, check_wanted, device_abilities
from trisect.llm.generate import generate
from trisect.llm.phases.device_choice import choose_devices
from trisect.runtime import engines
from trisect.runtime.engines.common.decoder_support import DecoderSupport
from trisect.runtime.errors import EngineFailed

REFUSED = DecoderSupport(modes=(), reason="has no compiler", remedy="install one")


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO's CPU plugin states that it runs no language models."""
    engine = engines.engine_for(kit.device("cpu:openvino"))
    monkeypatch.setattr(type(engine), "decoder_support", lambda self, device: REFUSED)


def test_cpu_engines_take_both_phases(tiny_llms: TinyLlms) -> None:
    bundle = tiny_llms.get().bundle
    versions = [kit.device(name).engine_version for name in ("cpu:ort", "cpu:openvino")]
    verdicts = [f"right: tests compare engine version {version}" for version in versions]
    rows = [device_abilities(bundle, kit.device(name)) for name in ("cpu:ort", "cpu:openvino")]
    assert rows == [
        DeviceAbilities(
            "cpu:ort", "yes", "yes", "in-place", "proved on hardware", ("float32", "float16"), verdict=verdicts[0]
        ),
        DeviceAbilities(
            "cpu:openvino", "yes", "yes", "stateful", "proved on hardware", ("float32",), verdict=verdicts[1]
        ),
    ]


def test_a_refused_device_is_named_before_the_model_is_read(refusing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **options: object) -> None:
        pytest.fail("imported a model for a device that cannot run it")

    monkeypatch.setattr(generate_module, "open_bundle", never)
    with pytest.raises(EngineFailed) as caught:
        generate("model.gguf", "hello", prefill="cpu:ort", decode="cpu:openvino")
    assert str(caught.value) == "cpu:openvino cannot run language models: it has no compiler; install one"
    check_wanted("cpu", "auto")  # of several devices, one that can is enough


def test_a_refused_device_is_named_before_others_are_measured(
    refusing: None, tiny_llms: TinyLlms, measurements: list[list[str]], folders: Path
) -> None:
    bundle = tiny_llms.get().bundle
    with pytest.raises(EngineFailed, match=r"no device of 'cpu:openvino' can run decode: .* has no compiler"):
        choose_devices(bundle, "auto", "cpu:openvino", prompt_tokens=8, new_tokens=4)
    assert not measurements
    assert [device.id for device in able_devices(bundle, "cpu", "prefill")] == ["cpu:ort"]
    row = device_abilities(bundle, kit.device("cpu:openvino"))
    assert (row.prefill, row.decode, row.mode) == ("no", "no", None)


def test_attention_in_other_dtypes_is_refused(tiny_llms: TinyLlms, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny_llms.get().bundle
    engine = engines.engine_for(kit.device("cpu:ort"))
    half = DecoderSupport(("in-place",), ("float16", "bfloat16"))
    monkeypatch.setattr(type(engine), "decoder_support", lambda self, device: half)
    with pytest.raises(EngineFailed, match=r"takes keys and values in float16 or bfloat16 only, not in float32"):
        bundle.mode_for(kit.device("cpu:ort"))


def test_devices_that_compute_nothing_run_no_models(tiny_llms: TinyLlms) -> None:
    nothing = replace(kit.device("cpu:ort"), id="npu:null", engine="null", kind="npu")
    with pytest.raises(EngineFailed, match="npu:null cannot run language models: it computes nothing"):
        tiny_llms.get().bundle.mode_for(nothing)
