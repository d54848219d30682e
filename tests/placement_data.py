"""Where published benchmarks are, for the tests that need them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def benchmark(name: str) -> Path:
    """A file or folder of published benchmark data; the test is skipped where it is absent."""
    path = Path(os.environ.get("TRISECT_DATA", _BESIDE)) / name
    if not path.exists():
        pytest.skip(f"{name} is not there: put the published data into a folder and name it in TRISECT_DATA")
    return path
