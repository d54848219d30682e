"""Latency when each accelerator is called once: its piece waits for its inputs, then fetches, computes and sends.

Hosts run any number of tasks in parallel, so only the pieces of accelerators delay others. The search anneals over
placements, each evaluated by the longest path through the pieces and the tasks on the host (simulated annealing,
Kirkpatrick et al. 1983, https://doi.org/10.1126/science.220.4598.671).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf
from random import Random

from ...problem.search_time_limit import TimeLimit
from ..load_annealing import DeviceLoads
from ..offload_instance import OffloadInstance

_CHECK_EVERY = 64
_MEAN_LOAD_WEIGHT = 0.02
"""Of the accelerators' mean load: of two placements with equal latency, the one with slack is the better start."""


def finish_times(instance: OffloadInstance, where: Sequence[int], load: Sequence[float]) -> list[float] | None:
    """Return when the result of each step is available to others; None where pieces wait for each other.

    Parameters
    ----------
    where : sequence of int
        Device of each group.
    load : sequence of float
        Load of each device, transfers included.
    """
    hosts, devices = instance.hosts, instance.devices
    steps = instance.steps
    unit = [d if (d := where[step.group]) >= hosts else devices + i for i, step in enumerate(steps)]
    waiting = [0] * (devices + len(steps))
    members: list[list[int]] = [[] for _ in range(devices)]
    for i, step in enumerate(steps):
        own = unit[i]
        if own < devices:
            members[own].append(i)
        for other in step.preds:
            if unit[other] != own:
                waiting[own] += 1
    ready = [d for d in range(hosts, devices) if members[d] and not waiting[d]]
    ready += [own for own in unit if own >= devices and not waiting[own]]
    start = [0.0] * (devices + len(steps))
    finish = [-1.0] * len(steps)
    done = 0
    while ready:
        own = ready.pop()
        if own < devices:
            end = start[own] + load[own]
            inside = members[own]
        else:
            inside = [own - devices]
            end = start[own] + steps[own - devices].host_time
        for i in inside:
            finish[i] = end
            done += 1
            for other in steps[i].succs:
                next_unit = unit[other]
                if next_unit != own:
                    if end > start[next_unit]:
                        start[next_unit] = end
                    waiting[next_unit] -= 1
                    if not waiting[next_unit]:
                        ready.append(next_unit)
    return finish if done == len(steps) else None


def latency(instance: OffloadInstance, where: Sequence[int]) -> float:
    """Return the latency of a placement; infinite where pieces wait for each other or exceed the memory."""
    state = DeviceLoads(instance, where)
    if any(held > instance.capacity for held in state.held[instance.hosts :]):
        return inf
    finish = finish_times(instance, where, state.load)
    return inf if finish is None else max(finish, default=0.0)


def anneal_calls(
    instance: OffloadInstance,
    where: Sequence[int],
    random: Random,
    clock: TimeLimit,
    steps: int,
    *,
    initial_temperature: float = 0.02,
    goal: float = 0.0,
) -> tuple[float, list[int]]:
    """Minimise the latency, starting from a valid placement.

    Parameters
    ----------
    where : sequence of int
        Device of each group.
    steps : int
        Maximum number; cooling is spread over them.
    initial_temperature : float
        Relative to the latency.
    goal : float
        Stop at this value.

    Returns
    -------
    tuple of float and list of int
        The least latency found, and its placement.
    """
    state = DeviceLoads(instance, where)
    hosts, devices, count = instance.hosts, instance.devices, instance.count
    accelerators = range(hosts, devices)
    near = _near(instance)

    def energy(finish: list[float]) -> tuple[float, float]:
        longest = max(finish, default=0.0)
        return longest, longest + _MEAN_LOAD_WEIGHT * sum(state.load[d] for d in accelerators) / max(
            1, instance.accelerators
        )

    now_finish = finish_times(instance, state.where, state.load)
    if now_finish is None:
        return inf, list(where)
    best, current = energy(now_finish)
    best_where = list(where)
    temperature = 0.0
    step = 0
    rand = random.random
    while count and devices > 1 and step < steps:
        if step % _CHECK_EVERY == 0:
            if best <= goal or clock.is_over():
                break
            temperature = initial_temperature * best * max(1 - step / steps, 1e-3) ** 2
            if step % (_CHECK_EVERY * 256) == 0:
                state.recount()
        step += 1
        group = int(rand() * count)
        source = state.where[group]
        target = state.where[near[group][int(rand() * len(near[group]))]] if near[group] and rand() < 0.8 else 0
        if target == source or rand() < 0.05:
            target = int(rand() * devices)
        if target == source:
            continue
        moved = [group]
        if rand() < 0.3:
            # The group with neighbours in the same piece: boundaries of pieces move by more than one operator.
            moved += [g for g in near[group] if state.where[g] == source and rand() < 0.7]
        undo = []
        can_run = True
        for g in moved:
            leaves, arrives = state.change(g, target)
            if arrives == inf:
                can_run = False
                break
            state.move(g, target, leaves, arrives)
            undo.append(g)
        finish = None
        if can_run and (target < hosts or state.held[target] <= instance.capacity):
            finish = finish_times(instance, state.where, state.load)
        if finish is not None:
            longest, changed = energy(finish)
            if changed <= current or rand() < exp((current - changed) / temperature):
                current = changed
                if longest < best * (1 - 1e-12):
                    best, best_where = longest, list(state.where)
                continue
        for g in reversed(undo):
            leaves, arrives = state.change(g, source)
            state.move(g, source, leaves, arrives)
    return best, best_where


def _near(instance: OffloadInstance) -> list[list[int]]:
    return [sorted({*instance.preds[g], *instance.succs[g]}) for g in range(instance.count)]
