"""Draws slow tests for a run that has no time for all of them."""

from __future__ import annotations

import random
from collections import Counter


def slow_sample(costs_s: dict[str, float], budget_s: float, seed: int) -> set[str]:
    """Draw slow tests that take no longer together than a budget, the cases of as many functions as possible.

    Parameters
    ----------
    costs_s : dict
        Name of a test, with its parameters in brackets -> seconds.
    """
    draw = random.Random(seed)
    names = draw.sample(sorted(costs_s), len(costs_s))
    drawn: Counter[str] = Counter()
    turns = {}
    for name in names:
        function = name.partition("[")[0]
        turns[name] = drawn[function]
        drawn[function] += 1
    chosen: set[str] = set()
    for name in sorted(names, key=turns.__getitem__):  # the first case of each function, then the second, ...
        if costs_s[name] <= budget_s:
            chosen.add(name)
            budget_s -= costs_s[name]
    return chosen
