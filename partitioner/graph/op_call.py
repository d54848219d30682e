"""One operator with the shapes it is called with, and how rules about it are put into a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One operator with the shapes it is called with: all that its cost depends on.

    A missing optional input or output, and a tensor of unknown rank, is None; an unknown dimension counts as 1.
    """

    op_type: str
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def input(self, index: int) -> Shape:
        """Shape of an input; that of a scalar where it is missing."""
        return (self.inputs[index] or ()) if index < len(self.inputs) else ()

    def output(self, index: int = 0) -> Shape:
        """Shape of an output; that of a scalar where it is missing."""
        return (self.outputs[index] or ()) if index < len(self.outputs) else ()

    @property
    def written(self) -> int:
        """Elements of the first output."""
        return prod(self.output())


Rule = Callable[[Call], float]


def rules_into(table: dict[str, Rule]) -> Callable[..., Callable[[Rule], Rule]]:
    """A decorator that enters a function into a table, under the names of the operators that it is for.

    Examples
    --------
    >>> table: dict[str, Rule] = {}
    >>> rule = rules_into(table)
    >>> @rule("Neg", "Abs")
    ... def once(call):
    ...     return call.written
    >>> sorted(table)
    ['Abs', 'Neg']
    """

    def rule(*op_types: str) -> Callable[[Rule], Rule]:
        def register(function: Rule) -> Rule:
            table.update(dict.fromkeys(op_types, function))
            return function

        return register

    return rule
