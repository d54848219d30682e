"""A target compared with a measurement, and the table that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import typer

from trisect.cli.output import print_table


@dataclass(frozen=True)
class TargetCheck:
    """One target and the measured value."""

    what: str
    promised: str
    """The target, with its comparison and unit."""
    measured: str
    met: bool


def verdict(met: bool) -> str:
    """Return the table's word for a target that is met or missed."""
    return "met" if met else "MISSED"


def print_checks(checks: Sequence[TargetCheck]) -> None:
    """Print a table of targets."""
    rows = [(check.what, check.promised, check.measured, verdict(check.met)) for check in checks]
    print_table(["what", "target", "measured", ""], rows, title="targets")


def exit_if_missed(check: bool, met: bool) -> None:
    """End the command with exit code 1 where ``--check`` is given and a target is missed."""
    if check and not met:
        raise typer.Exit(1)
