"""Simulated annealing over device loads, with loads updated incrementally.

Kirkpatrick et al. 1983, https://doi.org/10.1126/science.220.4598.671. The objective is a power mean of the loads: the
largest alone would not distinguish a move that lowers the second largest from one that has no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf
from random import Random

from ..problem.search_time_limit import TimeLimit
from .offload_instance import OffloadInstance

_CHECK_EVERY = 256
_BLOCK_SHARE = 0.1
"""Share of moves of a block of groups instead of a single one."""
_BLOCK_SIZES = (2, 3, 5, 8, 13, 21)


class DeviceLoads:
    """The device of each group, and the load and the memory use of each device."""

    def __init__(self, instance: OffloadInstance, where: Sequence[int]) -> None:
        self.instance = instance
        self.where = list(where)
        self.touching: list[list[tuple[int, bool]]] = [[] for _ in range(instance.count)]
        for n, net in enumerate(instance.nets):
            self.touching[net.producer].append((n, True))
            for reader in net.readers:
                self.touching[reader].append((n, False))
        self.producers = [net.producer for net in instance.nets]
        self.costs = [net.cost for net in instance.nets]
        self.readers = [len(net.readers) for net in instance.nets]
        self.counts = [[0] * instance.devices for _ in instance.nets]
        self.load = [0.0] * instance.devices
        self.held = [0.0] * instance.devices
        self.recount()

    def recount(self) -> None:
        """Recompute everything from `where`; this also clears rounding errors."""
        instance, where = self.instance, self.where
        self.load = [0.0] * instance.devices
        self.held = [0.0] * instance.devices
        for group, device in enumerate(where):
            is_host = device < instance.hosts
            self.load[device] += instance.host_time[group] if is_host else instance.acc_time[group]
            self.held[device] += instance.size[group]
        for n, net in enumerate(instance.nets):
            row = [0] * instance.devices
            for reader in net.readers:
                row[where[reader]] += 1
            self.counts[n] = row
            producer = where[net.producer]
            for device in range(instance.hosts, instance.devices):
                if row[device] < self.readers[n] if device == producer else row[device] > 0:
                    self.load[device] += net.cost

    def change(self, group: int, target: int) -> tuple[float, float]:
        """Return what moving a group adds to the load of the device that it leaves, and of its target."""
        where, hosts = self.where, self.instance.hosts
        source = where[group]
        leaves = arrives = 0.0
        instance = self.instance
        if source >= hosts:
            leaves -= instance.acc_time[group]
        else:
            leaves -= instance.host_time[group]
        arrives += instance.acc_time[group] if target >= hosts else instance.host_time[group]
        producers, costs, counts, totals = self.producers, self.costs, self.counts, self.readers
        for n, is_producer in self.touching[group]:
            row = counts[n]
            cost = costs[n]
            if is_producer:
                total = totals[n]
                if source >= hosts:
                    inside = row[source]
                    leaves += cost * ((inside > 0) - (inside < total))
                if target >= hosts:
                    inside = row[target]
                    arrives += cost * ((inside < total) - (inside > 0))
            else:
                producer = where[producers[n]]
                if source >= hosts:
                    if producer == source:
                        if row[source] == totals[n]:
                            leaves += cost
                    elif row[source] == 1:
                        leaves -= cost
                if target >= hosts:
                    if producer == target:
                        if row[target] + 1 == totals[n]:
                            arrives -= cost
                    elif row[target] == 0:
                        arrives += cost
        return leaves, arrives

    def move(self, group: int, target: int, leaves: float, arrives: float) -> None:
        """Move a group; `change` gives the changes of the loads."""
        source = self.where[group]
        self.load[source] += leaves
        self.load[target] += arrives
        size = self.instance.size[group]
        self.held[source] -= size
        self.held[target] += size
        for n, is_producer in self.touching[group]:
            if not is_producer:
                self.counts[n][source] -= 1
                self.counts[n][target] += 1
        self.where[group] = target


def anneal(
    instance: OffloadInstance,
    where: Sequence[int],
    random: Random,
    clock: TimeLimit,
    steps: int,
    *,
    goal: float = 0.0,
    initial_temperature: float = 0.3,
    power: int = 12,
) -> tuple[float, list[int]]:
    """Minimise the largest load, starting from a placement within the memory limits.

    Parameters
    ----------
    where : sequence of int
        Device of each group.
    steps : int
        Maximum number; cooling is spread over them.
    goal : float
        Stop at this value.
    initial_temperature : float
        Relative to the power mean.
    power : int
        Exponent of the mean; the higher, the more the largest load dominates.

    Returns
    -------
    tuple of float and list of int
        The least largest load found, and its placement.
    """
    state = DeviceLoads(instance, where)
    best, best_where = max(state.load), list(where)
    unit = best or 1.0
    count, devices, hosts = instance.count, instance.devices, instance.hosts
    neighbours = _neighbours(instance)
    energy = sum((load / unit) ** power for load in state.load)
    temperature = initial_temperature
    step = 0
    rand = random.random
    load = state.load
    while count and devices > 1 and step < steps:
        if step % _CHECK_EVERY == 0:
            if best <= goal or clock.is_over():
                break
            if step % (_CHECK_EVERY * 64) == 0:
                state.recount()
                load = state.load
            # Recomputed each time: in a running sum one very large load would cancel the digits of the others.
            energy = sum((x / unit) ** power for x in load)
            temperature = initial_temperature * max(1 - step / steps, 1e-3) ** 3 * energy
        step += 1
        group = int(rand() * count)
        source = state.where[group]
        near = neighbours[group]
        target = state.where[near[int(rand() * len(near))]] if near and rand() < 0.6 else int(rand() * devices)
        if target == source:
            continue
        if target >= hosts:
            if instance.acc_time[group] == inf or state.held[target] + instance.size[group] > instance.capacity:
                continue
        elif instance.host_time[group] == inf:
            continue
        a, b = load[source], load[target]
        moved = [group]
        if rand() < _BLOCK_SHARE:
            times = instance.acc_time if target >= hosts else instance.host_time
            moved = [g for g in _block(state, group, neighbours, random) if times[g] < inf]
        if len(moved) > 1:
            leaves, arrives = _move_all(state, moved, target)
        else:
            leaves, arrives = state.change(group, target)
        after = max(a + leaves, 0.0), b + arrives
        delta = sum((x / unit) ** power for x in after) - (a / unit) ** power - (b / unit) ** power
        accepted = delta <= 0 or rand() < exp(-delta / temperature)
        if len(moved) > 1:
            if accepted and target >= hosts and state.held[target] > instance.capacity:
                accepted = False
            if not accepted:
                _move_all(state, moved, source)
                load[source], load[target] = a, b
        elif accepted:
            state.move(group, target, leaves, arrives)
        if accepted:
            energy += delta
            if load[source] < best and load[target] < best:
                largest = max(load)
                if largest < best * (1 - 1e-9):
                    best, best_where = largest, list(state.where)
                    if 0 < best < 0.97 * unit:
                        unit = best
                        energy = sum((x / unit) ** power for x in load)
    return best, best_where


def _block(state: DeviceLoads, group: int, near: list[list[int]], random: Random) -> list[int]:
    """Return a group with a random number of connected groups on the same device."""
    source, size = state.where[group], random.choice(_BLOCK_SIZES)
    block = [group]
    seen = {group}
    for member in block:  # grows during the loop
        if len(block) >= size:
            break
        for other in near[member]:
            if other not in seen and state.where[other] == source and len(block) < size:
                seen.add(other)
                block.append(other)
    return block


def _move_all(state: DeviceLoads, groups: list[int], target: int) -> tuple[float, float]:
    """Move groups of one device; return what that adds to its load, and to the target's."""
    leaves = arrives = 0.0
    for group in groups:
        change = state.change(group, target)
        state.move(group, target, *change)
        leaves += change[0]
        arrives += change[1]
    return leaves, arrives


def _neighbours(instance: OffloadInstance) -> list[list[int]]:
    neighbours: list[set[int]] = [set() for _ in range(instance.count)]
    for net in instance.nets:
        for reader in net.readers:
            neighbours[net.producer].add(reader)
            neighbours[reader].add(net.producer)
    return [sorted(groups) for groups in neighbours]
