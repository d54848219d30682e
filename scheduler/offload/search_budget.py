"""How much a search may do: counted in steps, so that the same seed gives the same answer wherever it runs.

Steps are what a slow machine manages in the time; a quick one is done before. Where even that takes too long, the clock
stops the search, and the answer says so.
"""

from __future__ import annotations

from time import monotonic

from .offload_instance import Instance

_LOAD_STEP_S = 0.6e-6, 0.35e-6
"""A step of annealing loads: to draw it, and for each pin of a group's nets to work it out."""
_CALL_STEP_S = 4e-6, 0.09e-6
"""A step of annealing calls: to draw it, and for each task and edge to play it through."""


class Budget:
    """Seconds that are left, and whether the clock had to stop something.

    Parameters
    ----------
    seconds : float

    Examples
    --------
    >>> budget = Budget(0.0)
    >>> budget.is_spent(), budget.is_cut_short
    (True, True)
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_cut_short = False
        self._deadline = monotonic() + seconds

    def left_s(self) -> float:
        """Seconds until the clock stops what still goes on."""
        return max(0.0, self._deadline - monotonic())

    def is_spent(self) -> bool:
        """Whether time is up; asked by what would go on, so that it is cut short if so."""
        if monotonic() < self._deadline:
            return False
        self.is_cut_short = True
        return True


def load_steps(instance: Instance, seconds: float) -> int:
    """Steps of `anneal` in so many seconds."""
    pins = sum(1 + len(net.readers) for net in instance.nets)
    draw_s, pin_s = _LOAD_STEP_S
    return int(seconds / (draw_s + pin_s * pins / max(1, instance.count)))


def call_steps(instance: Instance, seconds: float) -> int:
    """Steps of `anneal_calls` in so many seconds."""
    draw_s, part_s = _CALL_STEP_S
    return int(seconds / (draw_s + part_s * sum(1 + len(step.succs) for step in instance.steps)))
