"""The command line: one module per command, each a thin layer over `trisect.api`.

With ``--json``, a command prints one JSON document on standard output and nothing else there. Notes and progress go to
standard error, an error is one line, and the exit codes are 0 (done), 1 (a check failed), 2 (the user has to change
something) and 130 (interrupted).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see `trisect.cli.application.main`."""
    try:
        from .interrupts import interrupts_handled

        with interrupts_handled(until_exit=arguments is None):
            from .application import main as run_command

            return run_command(arguments)
    except KeyboardInterrupt:  # before the command began, or after it ended
        print("interrupted", file=sys.stderr)
        return 130
