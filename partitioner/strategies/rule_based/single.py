"""``single``: everything on one device, the baseline of every split.

As in Mirhoseini et al. 2017, https://doi.org/10.48550/arXiv.1706.04972. O(tasks x devices).
"""

from __future__ import annotations

from math import inf

from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.problem.problem import Problem

from .. import strategy


@strategy("single")
def single(problem: Problem, device: str = "") -> dict[str, str]:
    """Place all tasks on one device.

    Parameters
    ----------
    device : str, optional
        Its id; the device with the least total time when left out.

    Raises
    ------
    UnknownDevice
    InfeasibleProblem
        When the device (or every device) cannot run some task.

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> set(single(problem).values()), set(single(problem, "cpu:x").values())
    ({'gpu:y'}, {'cpu:x'})
    """
    if device:
        problem.column(device)  # refuses unknown ones
    candidates = [device] if device else problem.device_ids
    sums = {d: problem.overhead(d) + sum(problem.time(task, d) for task in problem.graph) for d in candidates}
    best = min(candidates, key=lambda d: sums[d])
    if sums[best] == inf:
        unsupported = next(task for task in problem.graph if problem.time(task, best) == inf)
        why = problem.why_not.get((unsupported, best))
        raise InfeasibleProblem(
            f"{best} cannot run the whole model: not {unsupported!r}{f' ({why})' if why else ''}",
            remedy="use the strategy auto, or other devices",
        )
    return dict.fromkeys(problem.graph, best)
