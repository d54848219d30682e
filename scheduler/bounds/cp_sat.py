"""Solves a CP-SAT model, and lets Ctrl-C end the search at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trisect.runtime.interruptible import call_interruptibly

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, CpSolver, CpSolverStatus


def solve_cp(solver: CpSolver, model: CpModel) -> CpSolverStatus:
    """Solve a model; return the status of the search.

    CP-SAT's own handling of Ctrl-C ends the process without a word, long after the search too.

    Raises
    ------
    KeyboardInterrupt
        When the user interrupts; the search is stopped.
    """
    solver.parameters.catch_sigint_signal = False
    return call_interruptibly(lambda: solver.solve(model), solver.stop_search)
