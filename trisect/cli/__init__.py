"""The command line: one module per command, each a thin layer of words over `trisect.api`.

What holds for every command is kept in `output`: ``--json`` prints one document on standard output and nothing else
there, notes and progress go to standard error, errors are one line, and exit codes are 0 (done), 1 (a bar or a
verification failed), 2 (the user has to change something) and 130 (interrupted).
"""

from __future__ import annotations

from .main import main

__all__ = ["main"]
