"""Measurements that are shorter than a user's: of tests in this process, and of the commands in README's test."""

from __future__ import annotations

import importlib
import sys

PLANNING: dict[str, object] = {
    "trisect.partitioner.costs.cut_measurement._CUTS": 1,
    "trisect.partitioner.costs.cut_measurement._FEW_CUTS": 1,
    "trisect.partitioner.planning.measured_planning.BUDGET_S": 1.0,
}
"""Name of a constant -> its value: fewer cuts and candidates of each model."""


def main() -> int:
    """Run the command line, where it splits with these measurements."""
    for name, value in PLANNING.items() if sys.argv[1:2] == ["split"] else ():
        module, _, constant = name.rpartition(".")
        loaded = importlib.import_module(module)
        assert hasattr(loaded, constant)
        setattr(loaded, constant, value)
    from trisect.cli import main as run

    return run()
