"""Describes the state that a recurrent layer keeps between runs: of fixed size, whatever the number of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RecurrentState:
    """One tensor of the state of one layer, float32.

    Examples
    --------
    >>> RecurrentState(3, "conv", (8, 3)).past, RecurrentState(3, "conv", (8, 3)).size_bytes
    ('past_state.3.conv', 96)
    """

    layer: int
    part: str
    shape: tuple[int, ...]
    """Without the batch."""

    @property
    def past(self) -> str:
        """The graph's input."""
        return f"past_state.{self.layer}.{self.part}"

    @property
    def present(self) -> str:
        """The graph's output."""
        return f"present_state.{self.layer}.{self.part}"

    @property
    def size_bytes(self) -> int:
        """Size for one sequence."""
        return 4 * math.prod(self.shape)


class RecurrentStates:
    """The states of all recurrent layers of some sequences, twice: a run reads one set and writes the other."""

    def __init__(self, states: Sequence[RecurrentState], batch: int = 1) -> None:
        self._states = tuple(states)
        self._sets = [{s: np.zeros((batch, *s.shape), np.float32) for s in states} for _ in range(2)]
        self.current = 0
        """Which of the two sets the next run reads."""

    def __bool__(self) -> bool:
        return bool(self._states)

    def inputs(self) -> dict[str, np.ndarray]:
        """Return what the next run reads, by name of the graph's input."""
        return {state.past: array for state, array in self._sets[self.current].items()}

    def outputs(self) -> dict[str, np.ndarray]:
        """Return what the next run writes, by name of the graph's output."""
        return {state.present: array for state, array in self._sets[1 - self.current].items()}

    def advance(self) -> None:
        """Make what the last run wrote what the next one reads."""
        if self._states:
            self.current = 1 - self.current

    def clear(self) -> None:
        """Set the state before the first token."""
        for array in self._sets[self.current].values():
            array[...] = 0
