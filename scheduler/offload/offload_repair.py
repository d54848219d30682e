"""Any placement bent to the rules of the offload convention, so that rules of thumb can be compared with the rest.

Heuristics for task graphs know nothing of colocation, memory or contiguous pieces. What they say is kept where the
rules allow it.
"""

from __future__ import annotations

from math import inf

from trisect.runtime.errors import InfeasibleProblem

from ..problem.problem import Placement, Problem
from .call_latency import finish_times
from .load_annealing import DeviceLoads
from .offload_instance import OffloadInstance, make_instance
from .pipeline_chain import best_intervals


def repair_offload(problem: Problem, placement: Placement) -> dict[str, str]:
    """The placement, changed as little as these rules of thumb manage, so that no rule is broken.

    A group of tasks that must be together goes where its first is. For contiguous throughput the order in which the
    placement would drain the graph is cut anew, by `best_intervals`. For latency each accelerator keeps its longest run
    of that order, and the host takes the rest.

    Raises
    ------
    InfeasibleProblem
        When nothing is found that fits.
    """
    instance = make_instance(problem, contract=False)
    where = instance.from_placement(placement)
    where = [_able(instance, g, d) for g, d in enumerate(where)]
    if problem.objective == "latency":
        where = _one_run_each(instance, _fit(instance, where))
    elif problem.rules.contiguous:
        found = best_intervals(instance, drained_order(instance, where))
        if found is None:
            raise InfeasibleProblem("no pipeline along this order fits the devices' memory", remedy="use exact or auto")
        where = found[1]
    else:
        where = _fit(instance, where)
    return instance.to_placement(where)


def drained_order(instance: OffloadInstance, where: list[int]) -> list[int]:
    """A topological order that stays on a device as long as something is ready there."""
    waiting = [len(p) for p in instance.preds]
    ready: dict[int, list[int]] = {}
    for g in range(instance.count):
        if not waiting[g]:
            ready.setdefault(where[g], []).append(g)
    order: list[int] = []
    device = 0
    while len(order) < instance.count:
        if not ready.get(device):
            device = max(ready, key=lambda d: (len(ready[d]), -d), default=0)
            if not ready.get(device):
                break  # groups that wait for each other, as colocated tasks may: only a host can run them
        group = ready[device].pop()
        order.append(group)
        for other in instance.succs[group]:
            waiting[other] -= 1
            if not waiting[other]:
                ready.setdefault(where[other], []).append(other)
    return order


def _able(instance: OffloadInstance, group: int, device: int) -> int:
    """The device, or the first that can run the group."""
    times = [
        instance.host_time[group] if d < instance.hosts else instance.acc_time[group] for d in range(instance.devices)
    ]
    return device if times[device] < inf else min(range(instance.devices), key=lambda d: times[d])


def _fit(instance: OffloadInstance, where: list[int]) -> list[int]:
    """Move what does not fit, the largest first, to where there is room; to a host if nowhere."""
    where = list(where)
    held = DeviceLoads(instance, where).held
    for g in sorted(range(instance.count), key=lambda g: -instance.size[g]):
        source = where[g]
        if source < instance.hosts or held[source] <= instance.capacity or instance.size[g] == 0:
            continue
        options = [
            d
            for d in range(instance.hosts, instance.devices)
            if d != source and held[d] + instance.size[g] <= instance.capacity
        ]
        if instance.host_time[g] < inf:
            options += range(instance.hosts)
        if not options:
            raise InfeasibleProblem(f"no device has room for {instance.groups[g][0]!r}", remedy="use exact or auto")
        where[g] = options[0]
        held[source] -= instance.size[g]
        held[options[0]] += instance.size[g]
    return where


def _one_run_each(instance: OffloadInstance, where: list[int]) -> list[int]:
    if finish_times(instance, where, [0.0] * instance.devices) is not None:
        return where
    longest: dict[int, list[int]] = {}
    run: list[int] = []
    for group in [*drained_order(instance, where), -1]:
        if run and (group < 0 or where[group] != where[run[0]]):
            device = where[run[0]]
            if len(run) > len(longest.get(device, ())):
                longest[device] = run
            run = []
        run = [*run, group]
    kept = {g for d, r in longest.items() if d >= instance.hosts for g in r}
    if any(instance.host_time[g] == inf for g in range(instance.count) if g not in kept):
        raise InfeasibleProblem("what only accelerators can run is not contiguous", remedy="use exact or auto")
    return [d if g in kept else 0 for g, d in enumerate(where)]
