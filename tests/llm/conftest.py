"""Fixtures of the tests of language models: folders, a tiny model, and a record of the measurements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.llm.gguf_factory import write_tiny_gguf
from tests.llm.llama_cpp import LlamaCpp
from trisect.llm.bundle import Bundle
from trisect.llm.phases import device_choice


@pytest.fixture(scope="session")
def llama_cpp() -> Iterator[LlamaCpp]:
    """llama.cpp, which computes the expected token ids and scores; skips where it is not installed."""
    oracle = LlamaCpp()
    yield oracle
    oracle.close()


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with bundles and profiles for one test."""
    monkeypatch.setenv("TRISECT_BUNDLES", str(tmp_path / "bundles"))
    monkeypatch.setenv("TRISECT_PROFILES", str(tmp_path / "profiles"))
    return tmp_path


@pytest.fixture
def gguf(folders: Path) -> Path:
    """A tiny model."""
    return write_tiny_gguf(folders / "tiny.gguf", quant="F32")


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Device ids of each measurement that is made."""
    measured: list[list[str]] = []
    measure_phases = device_choice.measure_phases

    def measure(bundle: Bundle, devices: Any, **options: Any) -> Any:
        measured.append([device.id for device in devices])
        return measure_phases(bundle, devices, **options | {"scope": replace(options["scope"], rounds=1)})

    monkeypatch.setattr(device_choice, "measure_phases", measure)
    return measured
