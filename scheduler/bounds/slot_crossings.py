"""Boundary costs of segments in slots: binary variables for the tensors that leave a slot, and that enter it.

A tensor is paid once by the segment that it leaves and once by each that it enters, also where both are on one device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import inf

from ..problem.problem import Problem
from ..problem.task_graph import tensor_edges
from .linear_program import LinearProgram

Cells = Sequence[Sequence[Mapping[int, int]]]
"""Per task and slot: device -> binary variable."""


def slot_crossings(
    problem: Problem,
    program: LinearProgram,
    number: Mapping[str, int],
    cells: Cells,
    price: Callable[[float, int], float],
) -> list[list[dict[int, float]]]:
    """Add the variables and constraints to a program.

    Parameters
    ----------
    number : mapping
        Task -> its number among the cells.
    price : callable
        Converts seconds on a device into the program's unit.

    Returns
    -------
    list of list of dict
        Per slot and device: terms of the price of all that crosses its boundary.
    """
    slots, width = range(len(cells[0]) if cells else 0), range(len(problem.devices))
    terms: list[list[dict[int, float]]] = [[{} for _ in width] for _ in slots]
    crossing_edges: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for source, target, tensors in tensor_edges(problem.graph) if problem.boundary_costs else ():
        for tensor in tensors:
            crossing_edges[tensor].append((number[source], number[target]))
    for tensor, edges in crossing_edges.items():
        if (cost := problem.boundary_costs.get(tensor)) is None:
            continue
        reordered = None
        if cost.in_nhwc is not None:
            reordered = _reordered(program, cells, {task for edge in edges for task in edge}, cost.nhwc_columns)
        for d in width:
            for leaves in (True, False):
                full_s = (cost.leave_s if leaves else cost.enter_s)[d]
                least_s = full_s
                if reordered is not None and cost.in_nhwc is not None and d in cost.nhwc_columns:
                    least_s = (cost.in_nhwc.leave_s if leaves else cost.in_nhwc.enter_s)[d]
                if full_s <= 0:
                    continue
                for k, crossing in _crossings(program, cells, edges, d, leaves).items():
                    terms[k][d][crossing] = price(least_s, d)
                    if full_s > least_s and reordered is not None:
                        both = program.binary()
                        program.add({both: 1.0, crossing: -1.0, reordered: -1.0}, -1, inf)
                        terms[k][d][both] = price(full_s - least_s, d)
    return terms


def _crossings(
    program: LinearProgram, cells: Cells, edges: Sequence[tuple[int, int]], device: int, leaves: bool
) -> dict[int, int]:
    """Return, per slot, a variable that is one where a tensor leaves (or enters) it on a device."""
    crossings: dict[int, int] = {}
    for source, target in edges:
        here, there = (source, target) if leaves else (target, source)
        inside = [(k, cell[device]) for k, cell in enumerate(cells[here]) if device in cell]
        for k, choice in inside:
            if k not in crossings:  # one variable for all readers in the slot
                crossings[k] = program.binary()
            other = cells[there][k].get(device)
            program.add({crossings[k]: 1.0, choice: -1.0} | ({} if other is None else {other: 1.0}), 0, inf)
        if inside:
            # Implied, and stronger in the relaxation: a change of device, whatever the slots.
            total = {crossings[k]: 1.0 for k, _ in inside} | {choice: -1.0 for _, choice in inside}
            program.add(total | {c: 1.0 for cell in cells[there] if (c := cell.get(device)) is not None}, 0, inf)
    return crossings


def _reordered(program: LinearProgram, cells: Cells, tasks: set[int], nhwc_columns: frozenset[int]) -> int:
    """Return a variable that is one where a device that does not compute in NHWC uses the tensor."""
    reordered = program.binary()
    for task in sorted(tasks):
        elsewhere = {c: -1.0 for cell in cells[task] for d, c in cell.items() if d not in nhwc_columns}
        if elsewhere:
            program.add({reordered: 1.0, **elsewhere}, 0, inf)
    return reordered
