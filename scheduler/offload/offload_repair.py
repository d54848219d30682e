"""Repair of placements under the offload convention, so that heuristics can be compared with its own solvers.

Heuristics for task graphs ignore colocation, memory and contiguous pieces. Their placement is changed only where it
violates a rule.
"""

from __future__ import annotations

from math import inf

from trisect.runtime.errors import InfeasibleProblem

from ..problem.problem import Placement, Problem
from .calls.call_latency import finish_times
from .load_annealing import DeviceLoads
from .offload_instance import OffloadInstance, make_instance
from .pipelines.pipeline_chain import best_intervals


def repair_offload(problem: Problem, placement: Placement) -> dict[str, str]:
    """Return the placement, changed where it would violate a rule.

    A colocated group goes where its first task is. For contiguous throughput the order in which the placement would run
    the graph is cut again by `best_intervals`. For latency each accelerator keeps its longest run of that order, and
    the host gets the rest.

    Raises
    ------
    InfeasibleProblem
        When these heuristics find no valid placement.
    """
    instance = make_instance(problem, contract=False)
    where = instance.from_placement(placement)
    where = [_capable_device(instance, g, d) for g, d in enumerate(where)]
    if problem.objective == "latency":
        where = _longest_runs(instance, _fit_memory(instance, where))
    elif problem.rules.contiguous:
        pipeline = best_intervals(instance, drained_order(instance, where))
        if pipeline is None:
            raise InfeasibleProblem("no pipeline along this order fits the devices' memory", remedy="use exact or auto")
        where = pipeline[1]
    else:
        where = _fit_memory(instance, where)
    return instance.to_placement(where)


def drained_order(instance: OffloadInstance, where: list[int]) -> list[int]:
    """Return a topological order that stays on a device as long as a group is ready there."""
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
                break  # groups in a cycle, as colocated tasks may be: only a host can run them
        group = ready[device].pop()
        order.append(group)
        for other in instance.succs[group]:
            waiting[other] -= 1
            if not waiting[other]:
                ready.setdefault(where[other], []).append(other)
    return order


def _capable_device(instance: OffloadInstance, group: int, device: int) -> int:
    """Return the device, or the fastest one if it cannot run the group."""
    times = [
        instance.host_time[group] if d < instance.hosts else instance.acc_time[group] for d in range(instance.devices)
    ]
    return device if times[device] < inf else min(range(instance.devices), key=lambda d: times[d])


def _fit_memory(instance: OffloadInstance, where: list[int]) -> list[int]:
    """Move groups that exceed a memory, the largest first, to accelerators with room; else to a host."""
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
            raise InfeasibleProblem(
                f"no device has enough memory for {instance.groups[g][0]!r}", remedy="use exact or auto"
            )
        where[g] = options[0]
        held[source] -= instance.size[g]
        held[options[0]] += instance.size[g]
    return where


def _longest_runs(instance: OffloadInstance, where: list[int]) -> list[int]:
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
    on_accelerators = {g for d, r in longest.items() if d >= instance.hosts for g in r}
    if any(instance.host_time[g] == inf for g in range(instance.count) if g not in on_accelerators):
        raise InfeasibleProblem("tasks that only accelerators can run are not contiguous", remedy="use exact or auto")
    return [d if g in on_accelerators else 0 for g, d in enumerate(where)]
