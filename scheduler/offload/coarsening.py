"""Larger groups for a while: what talks much stays together, so that a search moves whole layers in one step.

Heavy edges first, as in Karypis and Kumar, https://doi.org/10.1137/S1064827595287997. How heavy is for the search to
vary: each restart with other groups gets other borders between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from .offload_instance import Net, OffloadInstance


def cluster(instance: OffloadInstance, least: float, most: float) -> list[int]:
    """Cluster of each group: groups that share a costly net, up to so much work on an accelerator.

    Parameters
    ----------
    instance : OffloadInstance
    least : float
        Cost from which a net holds groups together.
    most : float
        Work of a cluster, in the instance's unit of time.
    """
    parent = list(range(instance.count))
    work = [t if t < inf else 0.0 for t in instance.acc_time]
    size = list(instance.size)
    cannot = [(a == inf, h == inf) for a, h in zip(instance.acc_time, instance.host_time, strict=True)]

    def find(g: int) -> int:
        while parent[g] != g:
            parent[g] = parent[parent[g]]
            g = parent[g]
        return g

    for net in sorted(instance.nets, key=lambda net: -net.cost):
        if net.cost < least:
            break
        for reader in net.readers:
            a, b = find(net.home), find(reader)
            fits = work[a] + work[b] <= most and size[a] + size[b] <= instance.capacity / 2
            if a != b and fits and cannot[a] == cannot[b]:
                parent[b] = a
                work[a] += work[b]
                size[a] += size[b]
    roots: dict[int, int] = {}
    return [roots.setdefault(find(g), len(roots)) for g in range(instance.count)]


def coarse_instance(instance: OffloadInstance, home: Sequence[int]) -> OffloadInstance:
    """The instance in which clusters are groups. Its order is lost: it serves searches, not pipelines."""
    count = max(home, default=-1) + 1
    members: list[list[int]] = [[] for _ in range(count)]
    for group, cluster_number in enumerate(home):
        members[cluster_number].append(group)

    def total(values: Sequence[float]) -> list[float]:
        return [sum(values[g] for g in row) for row in members]

    nets = []
    for net in instance.nets:
        readers = sorted({home[r] for r in net.readers} - {home[net.home]})
        if readers:
            nets.append(Net(home[net.home], tuple(readers), net.cost))
    return replace(
        instance,
        groups=tuple(tuple(task for g in row for task in instance.groups[g]) for row in members),
        host_time=total(instance.host_time),
        acc_time=total(instance.acc_time),
        size=total(instance.size),
        nets=nets,
        preds=[sorted({home[p] for g in row for p in instance.preds[g]} - {c}) for c, row in enumerate(members)],
        succs=[sorted({home[s] for g in row for s in instance.succs[g]} - {c}) for c, row in enumerate(members)],
        steps=tuple(replace(step, group=home[step.group]) for step in instance.steps),
    )
