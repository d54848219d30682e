"""Linear programs over whole and real variables, written once and solved by CP-SAT or by SCIP, which come with ortools.

CP-SAT takes whole numbers only, so a program for it counts in whole steps; SCIP is given no conditional rows, so they
are relaxed by as much as the variables' bounds allow. Both are stopped by the work they have done and not by the clock,
so that the same program and seed end with the same answer on any machine; the clock is only the last resort, and an
answer says when it was needed.

CP-SAT: https://developers.google.com/optimization. SCIP: Achterberg 2009, https://doi.org/10.1007/s12532-008-0001-1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from math import inf
from time import monotonic
from typing import Literal

Solver = Literal["cp", "milp"]
Terms = Mapping[int, float]
"""Variable -> coefficient."""

_WORKERS = 8
WORK_PER_S = 0.5
"""CP-SAT's own measure of work that is done in a second even on a slow machine."""
_NODES_PER_S = 50
_NEARLY = 1e-6


@dataclass(frozen=True)
class LinearConstraint:
    """``low <= sum of terms <= high``, in force where every variable of `when` is 1 (then without `high`)."""

    terms: Terms
    low: float
    high: float
    when: tuple[int, ...] = ()


@dataclass
class LinearProgram:
    """Variables with bounds, rows, and the one variable to make small.

    Examples
    --------
    >>> program = LinearProgram()
    >>> x, y, goal = program.choice(), program.choice(), program.number(0, 10)
    >>> program.add({x: 1, y: 1}, 1, 1)
    >>> program.add({goal: 1, x: -3, y: -2}, 0, inf)
    >>> round(solve(program, goal, "milp", 5.0, 0).bound, 3), solve(program, goal, "cp", 5.0, 0).values[y]
    (2.0, 1)
    """

    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    is_choice: list[bool] = field(default_factory=list)
    rows: list[LinearConstraint] = field(default_factory=list)

    def choice(self) -> int:
        """A new variable that is 0 or 1."""
        return self._add(0.0, 1.0, True)

    def number(self, low: float, high: float) -> int:
        """A new variable between bounds."""
        return self._add(low, high, False)

    def add(self, terms: Terms, low: float, high: float, when: tuple[int, ...] = ()) -> None:
        """A new row."""
        self.rows.append(LinearConstraint({variable: c for variable, c in terms.items() if c}, low, high, when))

    def _add(self, low: float, high: float, is_choice: bool) -> int:
        self.lows.append(low)
        self.highs.append(high)
        self.is_choice.append(is_choice)
        return len(self.lows) - 1


@dataclass(frozen=True)
class SolverResult:
    """What a solver says."""

    values: tuple[float, ...] | None
    """Of the variables; None where nothing was found."""
    bound: float
    """What the goal is never below."""
    is_impossible: bool = False
    """Proven: no values satisfy the rows."""
    is_cut_short: bool = False
    """Whether the clock ended it."""


def solve(
    program: LinearProgram,
    goal: int,
    solver: Solver,
    time_limit_s: float,
    seed: int,
    hint: Mapping[int, float] | None = None,
) -> SolverResult:
    """Make one variable small.

    Parameters
    ----------
    program : LinearProgram
        For ``cp`` with whole coefficients and bounds.
    goal : int
    solver : {"cp", "milp"}
    time_limit_s : float
        Work for about a third of it on a quick machine, at most all of it on a slow one.
    seed : int
    hint : mapping of int to float, optional
        Values known to be good.
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
        model.new_bool_var("") if is_choice else model.new_int_var(int(low), int(high), "")
        for low, high, is_choice in zip(program.lows, program.highs, program.is_choice, strict=True)
    ]
    for row in program.rows:
        total = cp_model.LinearExpr.weighted_sum(
            [variables[v] for v in row.terms], [int(c) for c in row.terms.values()]
        )
        low = cp_model.INT_MIN if row.low == -inf else int(row.low)
        high = cp_model.INT_MAX if row.high == inf else int(row.high)
        added = model.add_linear_constraint(total, low, high)
        if row.when:
            added.only_enforce_if([variables[v] for v in row.when])
    for variable, value in hint.items():
        model.add_hint(variables[variable], int(value))
    model.minimize(variables[goal])
    engine = cp_model.CpSolver()
    engine.parameters.random_seed = seed
    engine.parameters.num_workers = _WORKERS
    engine.parameters.interleave_search = True
    engine.parameters.max_deterministic_time = max(0.01, time_limit_s * WORK_PER_S)
    engine.parameters.max_time_in_seconds = max(0.1, time_limit_s)
    begin = monotonic()
    status = engine.solve(model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return SolverResult(
        tuple(engine.value(v) for v in variables) if found else None,
        max(program.lows[goal], engine.best_objective_bound) if status != cp_model.INFEASIBLE else inf,
        is_impossible=status == cp_model.INFEASIBLE,
        is_cut_short=status in (cp_model.FEASIBLE, cp_model.UNKNOWN) and monotonic() - begin >= 0.99 * time_limit_s,
    )


def _by_milp(
    program: LinearProgram, goal: int, time_limit_s: float, seed: int, hint: Mapping[int, float]
) -> SolverResult:
    from ortools.math_opt.python import mathopt  # type: ignore[import-untyped]

    model = mathopt.Model()
    variables = [
        model.add_variable(lb=low, ub=high, is_integer=is_choice)
        for low, high, is_choice in zip(program.lows, program.highs, program.is_choice, strict=True)
    ]
    for row in map(partial(_relaxed, program), program.rows):
        added = model.add_linear_constraint(lb=row.low, ub=row.high)
        for variable, coefficient in row.terms.items():
            added.set_coefficient(variables[variable], coefficient)
    model.minimize(variables[goal])
    known = mathopt.SolutionHint(variable_values={variables[v]: float(value) for v, value in hint.items()})
    result = mathopt.solve(
        model,
        mathopt.SolverType.GSCIP,
        params=mathopt.SolveParameters(
            time_limit=timedelta(seconds=max(0.1, time_limit_s)),
            node_limit=max(1, int(time_limit_s * _NODES_PER_S)),
            relative_gap_tolerance=_NEARLY,
            random_seed=seed,
        ),
        model_params=mathopt.ModelSolveParameters(solution_hints=[known] if hint else []),
    )
    is_impossible = result.termination.reason == mathopt.TerminationReason.INFEASIBLE
    values = None
    if result.has_primal_feasible_solution():
        found = result.variable_values(variables)
        values = tuple(round(v) if c else v for v, c in zip(found, program.is_choice, strict=True))
    bound = result.termination.objective_bounds.dual_bound
    return SolverResult(
        values,
        inf if is_impossible else max(program.lows[goal], bound - _NEARLY * abs(bound)),
        is_impossible=is_impossible,
        is_cut_short=result.termination.limit == mathopt.Limit.TIME,
    )


def _relaxed(program: LinearProgram, row: LinearConstraint) -> LinearConstraint:
    """A row without conditions, which gives way, where it is not in force, by as much as its terms could be off.

    A row that has some is bounded from one side only.
    """
    if not row.when:
        return row
    if row.high < inf:
        raise ValueError("a row with conditions has a lower bound only")
    slack = max(0.0, row.low - sum(c * (program.lows if c > 0 else program.highs)[v] for v, c in row.terms.items()))
    terms = dict(row.terms)
    for variable in row.when:
        terms[variable] = terms.get(variable, 0.0) - slack
    return LinearConstraint(terms, row.low - slack * len(row.when), inf)
