"""Mutated files of every format end in one line and a known exit code, within limits of time and memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .fuzz_formats import FORMATS
from .fuzz_process import FuzzProcess, measure_device, prepare

_BRIEF, _LONG = 4, 700
"""Mutations of each format."""


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    measure_device()
    return tmp_path_factory.mktemp("valid")


@pytest.fixture(scope="module")
def process(valid: Path) -> Iterator[FuzzProcess]:
    with FuzzProcess(valid) as process:
        yield process


@pytest.mark.parametrize("format_name", FORMATS)
def test_valid_files_are_read(format_name: str, valid: Path, process: FuzzProcess) -> None:
    prepare(format_name, valid)
    assert process.check(format_name, -1) is None


@pytest.mark.parametrize("format_name", FORMATS)
def test_mutated_files_break_nothing(format_name: str, valid: Path, process: FuzzProcess) -> None:
    prepare(format_name, valid)
    breaches = [breach for number in range(_BRIEF) if (breach := process.check(format_name, number))]
    assert not breaches, "\n".join(map(str, breaches))


@pytest.mark.slow
@pytest.mark.parametrize("format_name", FORMATS)
def test_many_mutated_files_break_nothing(format_name: str, valid: Path, process: FuzzProcess) -> None:
    prepare(format_name, valid)
    breaches = [breach for number in range(_BRIEF, _LONG) if (breach := process.check(format_name, number))]
    assert not breaches, "\n".join(map(str, breaches))
