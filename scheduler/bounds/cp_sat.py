"""Solves a CP-SAT model within limits, and lets Ctrl-C end the search at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trisect.runtime.interruptible import call_interruptibly

from ..problem import search_time_limit

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, CpSolver, CpSolverStatus


def set_limits(solver: CpSolver, time_limit_s: float, work: float | None = None) -> None:
    """Limit a search by the clock and, where its result must not depend on the machine's load, by its work.

    Parameters
    ----------
    work : float, optional
        In CP-SAT's deterministic time.
    """
    solver.parameters.max_time_in_seconds = max(0.1, time_limit_s / search_time_limit.CLOCK_RATE)
    if work is not None:
        solver.parameters.max_deterministic_time = max(0.01, work)


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
