"""A command run with ``--json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from trisect.cli import main

Call = Callable[..., Any]


@pytest.fixture
def as_json(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command with ``--json``, checks exit code and standard error, and returns the document."""

    def call(*words: object, code: int = 0) -> Any:
        assert main([*map(str, words), "--json"]) == code
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out)

    return call
