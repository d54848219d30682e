"""Coarsening: groups with costly transfers form clusters, so that a search moves whole layers in one step.

Heavy edges first, as in Karypis and Kumar 1998, https://doi.org/10.1137/S1064827595287997. The search varies the
threshold: each restart with other clusters gets other boundaries between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from ..problem.disjoint_sets import DisjointSets
from .offload_instance import Net, OffloadInstance


def cluster(instance: OffloadInstance, min_cost: float, max_work: float) -> list[int]:
    """Return the cluster of each group: groups that share a costly net, up to a maximum of work.

    Parameters
    ----------
    min_cost : float
        Cost from which a net merges groups.
    max_work : float
        Time of a cluster on an accelerator, in the instance's unit of time.
    """
    clusters = DisjointSets(range(instance.count))
    work = [t if t < inf else 0.0 for t in instance.acc_time]
    size = list(instance.size)
    cannot = [(a == inf, h == inf) for a, h in zip(instance.acc_time, instance.host_time, strict=True)]

    for net in sorted(instance.nets, key=lambda net: -net.cost):
        if net.cost < min_cost:
            break
        for reader in net.readers:
            a, b = clusters.find(net.producer), clusters.find(reader)
            is_allowed = work[a] + work[b] <= max_work and size[a] + size[b] <= instance.capacity / 2
            if a != b and is_allowed and cannot[a] == cannot[b]:
                clusters.merge(a, b)
                work[a] += work[b]
                size[a] += size[b]
    roots: dict[int, int] = {}
    return [roots.setdefault(clusters.find(g), len(roots)) for g in range(instance.count)]


def coarse_instance(instance: OffloadInstance, cluster_of: Sequence[int]) -> OffloadInstance:
    """Return the instance in which clusters are groups. Its order is lost: it serves searches, not pipelines."""
    count = max(cluster_of, default=-1) + 1
    members: list[list[int]] = [[] for _ in range(count)]
    for group, cluster_number in enumerate(cluster_of):
        members[cluster_number].append(group)

    def total(values: Sequence[float]) -> list[float]:
        return [sum(values[g] for g in row) for row in members]

    nets = []
    for net in instance.nets:
        readers = sorted({cluster_of[r] for r in net.readers} - {cluster_of[net.producer]})
        if readers:
            nets.append(Net(cluster_of[net.producer], tuple(readers), net.cost))
    return replace(
        instance,
        groups=tuple(tuple(task for g in row for task in instance.groups[g]) for row in members),
        host_time=total(instance.host_time),
        acc_time=total(instance.acc_time),
        size=total(instance.size),
        nets=nets,
        preds=[sorted({cluster_of[p] for g in row for p in instance.preds[g]} - {c}) for c, row in enumerate(members)],
        succs=[sorted({cluster_of[s] for g in row for s in instance.succs[g]} - {c}) for c, row in enumerate(members)],
        steps=tuple(replace(step, group=cluster_of[step.group]) for step in instance.steps),
    )
