"""How many annealing steps a time limit allows, counted so that a slow machine finishes them in time."""

from __future__ import annotations

from .offload_instance import OffloadInstance

_LOAD_STEP_S = 0.6e-6, 0.35e-6
"""A step of annealing loads: the fixed part, and the part for each pin of a group's nets."""
_CALL_STEP_S = 4e-6, 0.09e-6
"""A step of annealing calls: the fixed part, and the part for each task and edge that is simulated."""

_CALL_BOUND_S = 2e-3, 30e-6
"""The least load of one call of a path: the fixed part, and the part for each group."""


def load_steps(instance: OffloadInstance, seconds: float) -> int:
    """Return the number of `anneal` steps in that many seconds."""
    pins = sum(1 + len(net.readers) for net in instance.nets)
    fixed_s, pin_s = _LOAD_STEP_S
    return int(seconds / (fixed_s + pin_s * pins / max(1, instance.count)))


def call_steps(instance: OffloadInstance, seconds: float) -> int:
    """Return the number of `anneal_calls` steps in that many seconds."""
    fixed_s, part_s = _CALL_STEP_S
    return int(seconds / (fixed_s + part_s * sum(1 + len(step.succs) for step in instance.steps)))


def call_bounds(instance: OffloadInstance, seconds: float) -> int:
    """Return the number of calls that `raise_path_bound` solves in that many seconds."""
    fixed_s, group_s = _CALL_BOUND_S
    return int(seconds / (fixed_s + group_s * instance.count))
