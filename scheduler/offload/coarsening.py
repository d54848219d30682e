"""Coarsening: groups with costly transfers form clusters, so that a search moves whole layers in one step.

Heavy edges first, as in Karypis and Kumar 1998, https://doi.org/10.1137/S1064827595287997. The search varies the
threshold: each restart with other clusters gets other boundaries between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from ..problem.disjoint_sets import DisjointSets
from .offload_instance import Net, OffloadInstance, OffloadStep


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
    return _numbered(clusters, instance.count)


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
        steps=_with_merged_chains([replace(step, group=cluster_of[step.group]) for step in instance.steps]),
        gradient_order=(),
    )


def chain_clusters(instance: OffloadInstance, max_size: float) -> list[int]:
    """Return the cluster of each group: chains without branches, divided where little has to be transferred.

    Parameters
    ----------
    max_size : float
        Bytes of a cluster.
    """
    sent = [0.0] * instance.count
    for net in instance.nets:
        sent[net.producer] += net.cost
    links = [
        (group, after[0])
        for group, after in enumerate(instance.succs)
        if len(after) == 1 and len(instance.preds[after[0]]) == 1
    ]
    clusters = DisjointSets(range(instance.count))
    size = list(instance.size)
    cannot = [(a == inf, h == inf) for a, h in zip(instance.acc_time, instance.host_time, strict=True)]
    for group, after in sorted(links, key=lambda link: -sent[link[0]]):
        a, b = clusters.find(group), clusters.find(after)
        received = max((sent[p] for p in instance.preds[group]), default=0.0)
        if sent[group] < min(sent[after], received) or size[a] + size[b] > max_size or cannot[a] != cannot[b]:
            continue
        clusters.merge(a, b)
        size[clusters.find(a)] = size[a] + size[b]
    return _numbered(clusters, instance.count)


def _numbered(clusters: DisjointSets[int], count: int) -> list[int]:
    roots: dict[int, int] = {}
    return [roots.setdefault(clusters.find(g), len(roots)) for g in range(count)]


def _with_merged_chains(steps: Sequence[OffloadStep]) -> tuple[OffloadStep, ...]:
    """Return the steps with chains of one cluster as one step each: no other step waits for what is inside a chain."""
    last = list(range(len(steps)))
    for i in reversed(range(len(steps))):
        after = steps[i].succs
        if len(after) == 1 and len(steps[after[0]].preds) == 1 and steps[after[0]].group == steps[i].group:
            last[i] = last[after[0]]
    chains: dict[int, list[int]] = {}
    for i, end in enumerate(last):
        chains.setdefault(end, []).append(i)
    # By their last steps the chains are in topological order.
    number = {end: n for n, end in enumerate(sorted(chains))}
    return tuple(
        OffloadStep(
            steps[end].group,
            sum(steps[i].host_time for i in chains[end]),
            sum(steps[i].acc_time for i in chains[end]),
            tuple(number[p] for p in steps[chains[end][0]].preds),
            tuple(number[last[s]] for s in steps[end].succs),
        )
        for end in sorted(chains)
    )
