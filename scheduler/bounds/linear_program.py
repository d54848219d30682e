"""Mixed-integer linear programs, written once and solved by CP-SAT or by SCIP (both part of ortools).

CP-SAT needs integers, so a program for it counts in integer steps; SCIP does not get conditional constraints, so they
are relaxed by as much as the variables' bounds allow (big M). Both are stopped by their work and not by the clock, so
that the same program and seed give the same result on any machine; the clock is only the last resort, and a result
states when it was needed.

CP-SAT: https://developers.google.com/optimization. SCIP: Achterberg 2009, https://doi.org/10.1007/s12532-008-0001-1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from math import inf
from typing import Literal

from trisect.runtime.interruptible import call_interruptibly

from ..problem import search_time_limit
from ..problem.search_time_limit import TimeLimit
from .cp_sat import set_limits, solve_cp

Solver = Literal["cp", "milp"]
Terms = Mapping[int, float]
"""Variable -> coefficient."""

_WORKERS = 8
WORK_PER_S = 0.5
"""CP-SAT's deterministic time that passes in a second even on a slow machine."""
_NODES_PER_S = 50
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class LinearConstraint:
    """``low <= sum of terms <= high``, enforced where every variable of `when` is 1 (then without `high`)."""

    terms: Terms
    low: float
    high: float
    when: tuple[int, ...] = ()


@dataclass
class LinearProgram:
    """Variables with bounds, constraints, and the one variable to minimise.

    Examples
    --------
    >>> program = LinearProgram()
    >>> x, y, goal = program.binary(), program.binary(), program.bounded(0, 10)
    >>> program.add({x: 1, y: 1}, 1, 1)
    >>> program.add({goal: 1, x: -3, y: -2}, 0, inf)
    >>> round(solve(program, goal, "milp", 5.0, 0).bound, 3), solve(program, goal, "cp", 5.0, 0).values[y]
    (2.0, 1)
    """

    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    is_binary: list[bool] = field(default_factory=list)
    constraints: list[LinearConstraint] = field(default_factory=list)

    def binary(self) -> int:
        """Add a binary variable; return its number."""
        return self._add(0.0, 1.0, True)

    def bounded(self, low: float, high: float) -> int:
        """Add a variable with bounds; return its number."""
        return self._add(low, high, False)

    def add(self, terms: Terms, low: float, high: float, when: tuple[int, ...] = ()) -> None:
        """Add a constraint."""
        self.constraints.append(LinearConstraint({variable: c for variable, c in terms.items() if c}, low, high, when))

    def _add(self, low: float, high: float, is_binary: bool) -> int:
        self.lows.append(low)
        self.highs.append(high)
        self.is_binary.append(is_binary)
        return len(self.lows) - 1


@dataclass(frozen=True)
class SolverResult:
    """Result of a solver."""

    values: tuple[float, ...] | None
    """Value of each variable; None where no solution was found."""
    bound: float
    """Proven lower bound of the objective."""
    is_infeasible: bool = False
    """Proven infeasible."""
    is_cut_short: bool = False
    """Whether the clock stopped the solver."""


def solve(
    program: LinearProgram,
    goal: int,
    solver: Solver,
    time_limit_s: float,
    seed: int,
    hint: Mapping[int, float] | None = None,
) -> SolverResult:
    """Minimise one variable.

    Parameters
    ----------
    program : LinearProgram
        For ``cp`` with integer coefficients and bounds.
    solver : {"cp", "milp"}
    time_limit_s : float
        The work limit takes about a third of it on a fast machine, at most all of it on a slow one.
    hint : mapping of int to float, optional
        Values of a known solution.
    """
    if solver == "cp":
        return _by_cp(program, goal, time_limit_s, seed, hint or {})
    return _by_milp(program, goal, time_limit_s, seed, hint or {})


def _by_cp(
    program: LinearProgram, goal: int, time_limit_s: float, seed: int, hint: Mapping[int, float]
) -> SolverResult:
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    variables = [
        model.new_bool_var("") if is_binary else model.new_int_var(int(low), int(high), "")
        for low, high, is_binary in zip(program.lows, program.highs, program.is_binary, strict=True)
    ]
    for constraint in program.constraints:
        total = cp_model.LinearExpr.weighted_sum(
            [variables[v] for v in constraint.terms], [int(c) for c in constraint.terms.values()]
        )
        low = cp_model.INT_MIN if constraint.low == -inf else int(constraint.low)
        high = cp_model.INT_MAX if constraint.high == inf else int(constraint.high)
        added = model.add_linear_constraint(total, low, high)
        if constraint.when:
            added.only_enforce_if([variables[v] for v in constraint.when])
    for variable, value in hint.items():
        model.add_hint(variables[variable], int(value))
    model.minimize(variables[goal])
    cp_solver = cp_model.CpSolver()
    cp_solver.parameters.random_seed = seed
    cp_solver.parameters.num_workers = _WORKERS
    cp_solver.parameters.interleave_search = True
    set_limits(cp_solver, time_limit_s, time_limit_s * WORK_PER_S)
    clock = TimeLimit(0.99 * time_limit_s)
    status = solve_cp(cp_solver, model)
    has_solution = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return SolverResult(
        tuple(cp_solver.value(v) for v in variables) if has_solution else None,
        max(program.lows[goal], cp_solver.best_objective_bound) if status != cp_model.INFEASIBLE else inf,
        is_infeasible=status == cp_model.INFEASIBLE,
        is_cut_short=status in (cp_model.FEASIBLE, cp_model.UNKNOWN) and clock.is_over(),
    )


def _by_milp(
    program: LinearProgram, goal: int, time_limit_s: float, seed: int, hint: Mapping[int, float]
) -> SolverResult:
    from ortools.math_opt.python import mathopt  # type: ignore[import-untyped]
    from ortools.util.python.solve_interrupter import SolveInterrupter  # type: ignore[import-untyped]

    model = mathopt.Model()
    variables = [
        model.add_variable(lb=low, ub=high, is_integer=is_binary)
        for low, high, is_binary in zip(program.lows, program.highs, program.is_binary, strict=True)
    ]
    for constraint in map(partial(_relaxed, program), program.constraints):
        added = model.add_linear_constraint(lb=constraint.low, ub=constraint.high)
        for variable, coefficient in constraint.terms.items():
            added.set_coefficient(variables[variable], coefficient)
    model.minimize(variables[goal])
    known = mathopt.SolutionHint(variable_values={variables[v]: float(value) for v, value in hint.items()})
    interrupter = SolveInterrupter()
    solve = partial(
        mathopt.solve,
        model,
        mathopt.SolverType.GSCIP,
        params=mathopt.SolveParameters(
            time_limit=timedelta(seconds=max(0.1, time_limit_s / search_time_limit.CLOCK_RATE)),
            node_limit=max(1, int(time_limit_s * _NODES_PER_S)),
            relative_gap_tolerance=_TOLERANCE,
            random_seed=seed,
        ),
        model_params=mathopt.ModelSolveParameters(solution_hints=[known] if hint else []),
        interrupter=interrupter,
    )
    result = call_interruptibly(solve, interrupter.interrupt)
    is_infeasible = result.termination.reason == mathopt.TerminationReason.INFEASIBLE
    values = None
    if result.has_primal_feasible_solution():
        solution = result.variable_values(variables)
        values = tuple(round(v) if c else v for v, c in zip(solution, program.is_binary, strict=True))
    bound = result.termination.objective_bounds.dual_bound
    return SolverResult(
        values,
        inf if is_infeasible else max(program.lows[goal], bound - _TOLERANCE * abs(bound)),
        is_infeasible=is_infeasible,
        is_cut_short=result.termination.limit == mathopt.Limit.TIME,
    )


def _relaxed(program: LinearProgram, constraint: LinearConstraint) -> LinearConstraint:
    """Return an unconditional constraint that is slack enough (big M) where its condition is false.

    A conditional constraint may have a lower bound only.
    """
    if not constraint.when:
        return constraint
    if constraint.high < inf:
        raise ValueError("a conditional constraint may have a lower bound only")
    slack = max(
        0.0,
        constraint.low - sum(c * (program.lows if c > 0 else program.highs)[v] for v, c in constraint.terms.items()),
    )
    terms = dict(constraint.terms)
    for variable in constraint.when:
        terms[variable] = terms.get(variable, 0.0) - slack
    return LinearConstraint(terms, constraint.low - slack * len(constraint.when), inf)
