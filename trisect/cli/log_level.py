"""Sets up logging for the command line: to standard error, at the level that ``TRISECT_LOG`` names."""

from __future__ import annotations

import logging
import os

from trisect.runtime.errors import InvalidInput
from trisect.runtime.printable_text import printable_line

ENVIRONMENT = "TRISECT_LOG"
"""Environment variable that names the level; warning where it is not set."""
LEVELS = ("debug", "info", "warning", "error", "critical")
_FORMAT = "%(levelname)s %(name)s: %(message)s"


class _LineFormatter(logging.Formatter):
    """Writes each message on one line, escaped; a traceback follows on lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable_line(super().formatMessage(record))


def configure_logging() -> None:
    """Log the messages of trisect's modules to standard error.

    Raises
    ------
    InvalidInput
        For an unknown level in ``TRISECT_LOG``.
    """
    level = os.environ.get(ENVIRONMENT, "") or "warning"
    if level.lower() not in LEVELS:
        raise InvalidInput(f"invalid {ENVIRONMENT} {level!r}: expected one of {', '.join(LEVELS)}", remedy="change it")
    logger = logging.getLogger("trisect")
    logger.setLevel(level.upper())
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter(_FORMAT))
    logger.handlers[:] = [handler]
