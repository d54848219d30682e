"""What a cut costs the devices at its two sides, beyond moving the bytes.

An engine keeps tensors in layouts of its own, and computes operators together with those behind them. Whatever leaves a
part has to be brought out of that, and whatever enters one into it, also where both sides share one memory. It is work
of the device: it cannot run beside other work as a transfer does.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .problem import Part, Problem


@dataclass(frozen=True)
class Border:
    """What one tensor costs a part that it leaves, and one that it enters: seconds on each of a problem's devices."""

    leave_s: tuple[float, ...]
    enter_s: tuple[float, ...]

    def scaled(self, factors: Collection[float]) -> Border:
        """With each device's seconds times a factor of its own."""
        leave_s = tuple(t * factor for t, factor in zip(self.leave_s, factors, strict=True))
        return Border(leave_s, tuple(t * factor for t, factor in zip(self.enter_s, factors, strict=True)))


def part_time_s(problem: Problem, part: Part) -> float:
    """Seconds of one call of a part in a loop: overhead, its tasks one after the other, what crosses its border."""
    column, times_s = problem.column(part.device), problem.times_s
    work_s = sum(times_s[node][column] for node in part.nodes)
    return problem.overhead(part.device) + work_s + border_s(problem, part)


def border_s(problem: Problem, part: Part) -> float:
    """Seconds that a part takes longer than its tasks and its call, for all that crosses its border.

    Each tensor is paid once on its way out, however many read it, and once on its way in.

    Examples
    --------
    >>> import networkx as nx
    >>> from dataclasses import replace
    >>> from trisect.runtime.device import Device
    >>> from trisect.scheduler.problem.problem import Part, Problem
    >>> graph = nx.DiGraph()
    >>> graph.add_edge("x", "y", tensors={"t": 100})
    >>> devices = [Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")]
    >>> problem = Problem.of(graph, devices, lambda node, device: 1.0, lambda size_bytes, src, dst: 0.5)
    >>> problem = replace(problem, borders={"t": Border(leave_s=(0.25, 0.5), enter_s=(2.0, 4.0))})
    >>> border_s(problem, Part("cpu:a", ("x",))), border_s(problem, Part("gpu:b", ("y",)))
    (0.25, 4.0)
    >>> border_s(problem, Part("gpu:b", ("x", "y")))
    0.0
    """
    if not problem.borders:
        return 0.0
    inside, column = set(part.nodes), problem.column(part.device)
    leaving: set[str] = set()
    entering: set[str] = set()
    for task in part.nodes:
        for other, data in problem.graph.succ[task].items():
            if other not in inside:
                leaving.update(data["tensors"])
        for other, data in problem.graph.pred[task].items():
            if other not in inside:
                entering.update(data["tensors"])
    borders = problem.borders
    leave_s = sum(borders[name].leave_s[column] for name in sorted(leaving) if name in borders)
    enter_s = sum(borders[name].enter_s[column] for name in sorted(entering) if name in borders)
    return float(leave_s + enter_s)
