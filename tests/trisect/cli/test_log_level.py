"""``TRISECT_LOG`` sets the level of the log messages on standard error."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from trisect.cli import main
from trisect.cli.log_level import ENVIRONMENT, configure_logging


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    logger = logging.getLogger("trisect")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.parametrize(("level", "shown"), [("", False), ("warning", False), ("info", True), ("DEBUG", True)])
def test_messages_below_the_level_are_hidden(
    level: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ENVIRONMENT, level)
    configure_logging()
    logging.getLogger("trisect.runtime.sessions").info("a message")
    logging.getLogger("another.package").info("another message")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("INFO trisect.runtime.sessions: a message\n" if shown else "")


def test_an_unknown_level_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(ENVIRONMENT, "loud")
    assert main(["devices"]) == 2
    expected = "error: invalid TRISECT_LOG 'loud': expected one of debug, info, warning, error, critical; change it\n"
    assert capsys.readouterr().err == expected
