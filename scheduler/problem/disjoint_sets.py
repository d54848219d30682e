"""Disjoint sets (union-find) whose representatives the caller chooses."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

_Item = TypeVar("_Item", bound=Hashable)


class DisjointSets(Generic[_Item]):
    """A partition of items into sets that can be merged.

    Tarjan 1975, https://doi.org/10.1145/321879.321884, with path halving; without union by size, so that the result of
    a merge keeps the representative of the set that is named first.

    Examples
    --------
    >>> sets = DisjointSets("abc")
    >>> sets.merge("b", "a")
    >>> sets.find("a"), sets.find("c"), sets.members()
    ('b', 'c', {'b': ['a', 'b'], 'c': ['c']})
    """

    def __init__(self, items: Iterable[_Item]) -> None:
        self._parent = {item: item for item in items}

    def find(self, item: _Item) -> _Item:
        """Return the representative of an item's set."""
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def merge(self, first: _Item, second: _Item) -> None:
        """Merge two sets; the representative of the first one stays."""
        self._parent[self.find(second)] = self.find(first)

    def members(self) -> dict[_Item, list[_Item]]:
        """Return representative -> items of its set, in the order of the items."""
        groups: dict[_Item, list[_Item]] = {}
        for item in self._parent:
            groups.setdefault(self.find(item), []).append(item)
        return groups
