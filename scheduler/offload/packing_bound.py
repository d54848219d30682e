"""A lower bound of the largest load: divisible work, and bin packing of whole tasks.

Accelerators are bins whose capacity is guessed and refuted by bisection. Dual feasible functions refute it without
search: they round sizes so that whatever fits before fits after, and then the sum alone shows that there are too many
(Fekete and Schepers 2001, https://doi.org/10.1007/s101070100243). The hosts take the tasks at which they are least
slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

import numpy as np
from numpy.typing import NDArray

from .offload_instance import OffloadInstance

_ROUNDING = 1e-9
_MAX_ROUNDINGS = 40
_STEPS = 50
_Sizes = NDArray[np.float64]


def load_bound(instance: OffloadInstance) -> float:
    """Return the largest load that some rounding refutes; transfers are left out.

    Examples
    --------
    >>> instance = OffloadInstance(
    ...     (("a",), ("b",)), [9.0, 9.0], [2.0, 4.0], [0, 0], [], [[], []], [[], []], 1, 2, 1e9, ()
    ... )
    >>> load_bound(instance)
    4.0

    Five equal tasks on two accelerators: one of them gets three.

    >>> instance = OffloadInstance(
    ...     (("a",),) * 5, [99.0] * 5, [1.0] * 5, [0.0] * 5, [], [[]] * 5, [[]] * 5, 1, 2, 1e9, ()
    ... )
    >>> round(load_bound(instance), 6)
    3.0
    """
    acc, host = np.array(instance.acc_time), np.array(instance.host_time)
    quickest = np.minimum(acc, host)
    low = float(quickest.max(initial=0.0))
    bound = _refuted(instance, acc, host, lambda sizes: sizes, low, max(low, float(quickest.sum())))
    for rounding in _roundings(acc, bound):
        bound = _refuted(instance, acc, host, rounding, bound, max(bound, 2 * bound))
    return bound


def absorbed_by_host(instance: OffloadInstance, limit: float) -> float:
    """Return the maximum of accelerator work that one host can take over below a load (a fractional knapsack)."""
    items = [(a if a < inf else 0.0, t) for a, t in zip(instance.acc_time, instance.host_time, strict=True) if t < inf]
    items.sort(key=lambda item: item[1] / item[0] if item[0] > 0 else inf)
    taken, left = 0.0, limit
    for acc, host in items:
        if host > left:
            return taken + (acc * left / host if host > 0 else 0.0)
        taken, left = taken + acc, left - host
    return taken


def _refuted(
    instance: OffloadInstance, acc: _Sizes, host: _Sizes, rounding: Callable[[_Sizes], _Sizes], low: float, high: float
) -> float:
    """Return the largest load between two that a rounding refutes; `low` where it refutes none."""
    if _fits(instance, acc, host, rounding, low * (1 + _ROUNDING)):
        return low
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if _fits(instance, acc, host, rounding, middle) else (middle, high)
    return low


def _fits(
    instance: OffloadInstance, acc: _Sizes, host: _Sizes, rounding: Callable[[_Sizes], _Sizes], load: float
) -> bool:
    """Return whether the rounded work fits under a load if hosts may take fractions of tasks."""
    if load <= 0:
        return not bool((np.minimum(acc, host) > 0).any())
    sizes = np.where(acc < inf, rounding(np.minimum(acc, load) / load * (1 - _ROUNDING)), inf)
    only_host = acc == inf
    room = instance.hosts * load - float(host[only_host].sum())
    # A task that is too long for a host under this load cannot go there at all.
    movable = ~only_host & (host <= load * (1 + _ROUNDING))
    rest = float(sizes[~only_host].sum())
    gains, costs = sizes[movable], host[movable]
    order = np.argsort(-gains / np.maximum(costs, 1e-300), kind="stable")
    gains, costs = gains[order], np.cumsum(costs[order])
    whole = int(np.searchsorted(costs, max(room, 0.0), side="right"))
    rest -= float(gains[:whole].sum())
    if whole < len(gains):
        taken = float(costs[whole - 1]) if whole else 0.0
        rest -= float(gains[whole]) * max(0.0, room - taken) / (float(costs[whole]) - taken)
    return room >= -_ROUNDING * load and rest <= instance.accelerators * (1 + _ROUNDING)


def _roundings(acc: _Sizes, load: float) -> Iterator[Callable[[_Sizes], _Sizes]]:
    """Yield dual feasible functions: of numbers with a sum of at most 1, the images have one too."""
    for parts in range(1, _MAX_ROUNDINGS):
        yield lambda sizes, k=parts: np.minimum(1.0, np.floor((k + 1) * sizes) / k)  # type: ignore[misc]
    if load <= 0:
        return
    ratios = np.unique(np.round(acc[(acc < inf) & (acc <= load / 2) & (acc > 0)] / load, 6))
    for threshold in ratios[:: max(1, len(ratios) // _MAX_ROUNDINGS)]:
        yield lambda sizes, t=threshold: np.where(sizes > 1 - t, 1.0, np.where(sizes < t, 0.0, sizes))  # type: ignore[misc]
