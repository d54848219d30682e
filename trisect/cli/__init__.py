"""The command line: one module per command, each a thin layer over `trisect.api`.

With ``--json``, a command prints one JSON document on standard output and nothing else there. Notes and progress go to
standard error, an error is one line, and the exit codes are 0 (done), 1 (a check failed), 2 (the user has to change
something) and 130 (interrupted).
"""

from __future__ import annotations

from .main import main

__all__ = ["main"]
