"""One operator with the shapes of its inputs and outputs, and a decorator that registers rules by operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class OpCall:
    """One operator with the shapes of its inputs and outputs: everything that its FLOPs depend on.

    A missing optional input or output, and a tensor of unknown rank, is None; an unknown dimension counts as 1.
    """

    op_type: str
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def input(self, index: int) -> Shape:
        """Return the shape of an input; that of a scalar where it is missing."""
        return (self.inputs[index] or ()) if index < len(self.inputs) else ()

    def output(self, index: int = 0) -> Shape:
        """Return the shape of an output; that of a scalar where it is missing."""
        return (self.outputs[index] or ()) if index < len(self.outputs) else ()

    @property
    def written(self) -> int:
        """Number of elements of the first output."""
        return prod(self.output())


FlopsRule = Callable[[OpCall], float]


def register_in(table: dict[str, FlopsRule]) -> Callable[..., Callable[[FlopsRule], FlopsRule]]:
    """Return a decorator that registers a function in a table, under the names of operators.

    Examples
    --------
    >>> table: dict[str, FlopsRule] = {}
    >>> rule = register_in(table)
    >>> @rule("Neg", "Abs")
    ... def once(call):
    ...     return call.written
    >>> sorted(table)
    ['Abs', 'Neg']
    """

    def rule(*op_types: str) -> Callable[[FlopsRule], FlopsRule]:
        def register(function: FlopsRule) -> FlopsRule:
            table.update(dict.fromkeys(op_types, function))
            return function

        return register

    return rule
