"""Pipelines of training graphs in which tasks of the backward pass follow the forward pass in reverse order.

Backward tasks that are colocated with no forward task have no place in the order of a pipeline: each may be on any
device, and the downsets multiply. Tarnawski et al. (https://arxiv.org/abs/2006.16423) order them as if each had a
forward task: the reader of a gradient comes before its producer. That excludes pipelines, but few that are good.
"""

from __future__ import annotations

from dataclasses import replace

import networkx as nx

from ..coarsening import coarse_instance
from ..offload_instance import OffloadInstance


def ordered_by_gradients(instance: OffloadInstance) -> tuple[OffloadInstance, list[int]]:
    """Return an instance whose pipelines respect the order of gradients, and the number there of each group.

    Groups that this order joins in a cycle become one.

    Examples
    --------
    Two gradients without forward tasks, of which the first reads what the second computes:

    >>> instance = OffloadInstance(
    ...     (("a",), ("b",)), [9.0, 9.0], [1.0, 1.0], [0, 0], [], [[], []], [[], []], 1, 1, 1e9, (), (), ((0, 1),)
    ... )
    >>> ordered, number = ordered_by_gradients(instance)
    >>> ordered.preds[number[1]] == [number[0]]
    True
    """
    preds = [set(groups) for groups in instance.preds]
    succs = [set(groups) for groups in instance.succs]
    for reader, producer in instance.gradient_order:
        succs[reader].add(producer)
        preds[producer].add(reader)
    order = nx.DiGraph([(group, other) for group, others in enumerate(succs) for other in others])
    order.add_nodes_from(range(instance.count))
    number = [0] * instance.count
    for i, component in enumerate(nx.strongly_connected_components(order)):
        for group in component:
            number[group] = i
    ordered = replace(instance, preds=[sorted(p) for p in preds], succs=[sorted(s) for s in succs], gradient_order=())
    return coarse_instance(ordered, number), number
