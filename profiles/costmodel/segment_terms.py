"""A segment -> the summands of its time: one for each operator in its place, and those of what crosses its border.

What an operator costs depends on what is in the same segment: an activation behind a convolution is nearly free, the
same one at the start of a segment is a pass over memory, and a tensor that leaves has to be brought out of the layout
that convolutions keep it in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .cost_terms import (
    CONVOLUTIONS,
    ELEMENTWISE,
    POOLS,
    PRODUCTS,
    VIEWS,
    CostTerm,
    OpContext,
    boundary_term,
    is_integer_op,
    layout_term,
    term,
)
from .op_instance import OpInstance, OpTensor

_LIGHT = ELEMENTWISE | {"BatchNormalization"}
_KEEP_LAYOUT = CONVOLUTIONS | POOLS | _LIGHT | {"Concat", "Resize", "Identity"}
_LONGEST_CHAIN = 3
_CALL = CostTerm("call")


def segment_terms(works: Sequence[OpInstance], outputs: Sequence[str]) -> list[CostTerm]:
    """The summands of a segment's time.

    Parameters
    ----------
    works : sequence of OpInstance
        Its operators, in an order in which they can run.
    outputs : sequence of str
        Tensors that leave it.

    Returns
    -------
    list of CostTerm
        Those of each operator in the order of `works`, then those of the border, then that of the call.

    Examples
    --------
    >>> x, y, z = (Tensor(name, (1, 64), 256) for name in "xyz")
    >>> relu, tanh = OpInstance("a", "Relu", (x,), (y,)), OpInstance("b", "Tanh", (y,), (z,))
    >>> [term.kind for term in segment_terms([relu, tanh], ["z"])]
    ['elementwise', 'elementwise', 'border', 'border', 'call']
    """
    walk = _Walk(works, set(outputs))
    found = [made for work in works for made in walk.terms(work)]
    given = {t.name: t for work in works for t in work.varying if t.name not in walk.maker}
    left = [t for work in works for t in work.outputs if t.name in walk.leaving]
    return [*found, *(boundary_term(t, "in") for t in given.values()), *(boundary_term(t, "out") for t in left), _CALL]


def node_terms(works: Sequence[OpInstance], outputs: Sequence[str]) -> dict[str, list[CostTerm]]:
    """The summands of each operator of a segment, by its name; those of the border are left out."""
    walk = _Walk(works, set(outputs))
    return {work.name: walk.terms(work) for work in works}


@dataclass(frozen=True)
class BoundaryTerms:
    """The summands that a tensor adds to a segment that it leaves, and to one that it enters."""

    leave: tuple[CostTerm, ...]
    enter: tuple[CostTerm, ...]
    is_image: bool = False
    """Whether both whoever makes it and all that read it have it in the layout of convolutions."""


def boundary_terms(works: Sequence[OpInstance]) -> dict[str, BoundaryTerms]:
    """What a cut adds, for each tensor that operators make for others.

    Parameters
    ----------
    works : sequence of OpInstance
        All operators, in an order in which they can run.

    Examples
    --------
    >>> x, y, z = (Tensor(name, (1, 64), 256) for name in "xyz")
    >>> found = boundary_terms([OpInstance("a", "Relu", (x,), (y,)), OpInstance("b", "Tanh", (y,), (z,))])
    >>> {name: [term.marks for term in (*crossing.leave, *crossing.enter)] for name, crossing in found.items()}
    {'y': [('out',), ('in',)]}
    """
    walk = _Walk(works, set())
    for work in works:
        walk.terms(work)
    found = {}
    for work in works:
        for tensor in work.outputs:
            readers = walk.readers[tensor.name]
            if not readers:
                continue
            leave, enter = [boundary_term(tensor, "out")], [boundary_term(tensor, "in")]
            if walk.is_blocked(work):
                leave.append(layout_term(tensor, "leave"))
            if any(is_image_convolution(reader) for reader in readers):
                enter.append(layout_term(tensor, "enter"))
            is_image = walk.is_blocked(work) and all(keeps_layout(reader) for reader in readers)
            found[tensor.name] = BoundaryTerms(tuple(leave), tuple(enter), is_image)
    return found


def keeps_layout(work: OpInstance) -> bool:
    """Whether it takes its input in the layout of convolutions, and gives its output in it."""
    return len(work.outputs[0].shape) == 4 and work.op_type in _KEEP_LAYOUT


def is_image_convolution(work: OpInstance) -> bool:
    """Whether it wants its input in the layout of convolutions."""
    return work.op_type in CONVOLUTIONS and len(work.outputs[0].shape) == 4


class _Walk:
    """What is known of a segment's operators up to the one at hand."""

    def __init__(self, works: Sequence[OpInstance], leaving: set[str]) -> None:
        self.leaving = leaving
        self.maker: dict[str, OpInstance] = {t.name: work for work in works for t in work.outputs}
        self.readers: Mapping[str, list[OpInstance]] = defaultdict(list)
        for work in works:
            for tensor in work.inputs:
                if tensor is not None and tensor.name in self.maker:
                    self.readers[tensor.name].append(work)
        self._chain: dict[str, tuple[str, int]] = {}
        self._blocked: set[str] = set()

    def is_blocked(self, work: OpInstance) -> bool:
        """Whether what it makes lies in the layout of convolutions."""
        return work.name in self._blocked

    def terms(self, work: OpInstance) -> list[CostTerm]:
        """The summands of one operator, those of changed layouts first."""
        if not work.outputs or self._is_weight(work):
            return []
        out = work.outputs[0]
        made = [(tensor, self.maker.get(tensor.name)) for tensor in work.varying]
        eight_bit, dequantised, quantised = self._bits(work)
        follows = self._follows(work, made, eight_bit)
        blocked_before = any(maker is not None and maker.name in self._blocked for _, maker in made)
        keeps = keeps_layout(work)
        found = []
        for tensor, maker in made:
            inside = maker is not None and maker.name in self._blocked
            if is_image_convolution(work) and not inside:
                found.append(layout_term(tensor, "enter" if maker is None else "in"))
            elif inside and not keeps:
                found.append(layout_term(tensor, "out"))
        if keeps and (work.op_type in CONVOLUTIONS or blocked_before):
            self._blocked.add(work.name)
            if out.name in self.leaving:
                found.append(layout_term(out, "leave"))
        context = OpContext(follows, eight_bit, dequantised, quantised, blocked_before)
        return [*found, term(work, context)]

    def _is_weight(self, work: OpInstance) -> bool:
        """Dequantised once for all, when the engine loads the model."""
        first = work.inputs[0] if work.inputs else None
        return work.op_type == "DequantizeLinear" and first is not None and first.constant

    def _bits(self, work: OpInstance) -> tuple[bool, bool, bool]:
        before = [self.maker.get(t.name) for t in work.inputs if t is not None]
        from_bits = [maker for maker in before if maker is not None and maker.op_type == "DequantizeLinear"]
        dequantised = any(not self._is_weight(maker) for maker in from_bits)
        weights = any(self._is_weight(maker) for maker in from_bits)
        quantised = any(reader.op_type == "QuantizeLinear" for reader in self.readers[work.outputs[0].name])
        return (dequantised and (quantised or weights)) or is_integer_op(work), dequantised, quantised

    def _follows(self, work: OpInstance, made: list[tuple[OpTensor, OpInstance | None]], eight_bit: bool) -> str:
        """Which heavy operator a light one could be computed together with, and how far behind it is."""
        suffix = ", 8 bits " if eight_bit else ""
        if work.op_type in CONVOLUTIONS or work.op_type in PRODUCTS:
            self._chain[work.name] = (("conv" if work.op_type in CONVOLUTIONS else "product") + suffix, 0)
            return ""
        if work.op_type not in _LIGHT and work.op_type not in VIEWS:
            return ""
        heavy, steps = "", 0
        for tensor, maker in made:
            if maker is None or maker.name not in self._chain or tensor.name in self.leaving:
                continue
            if work.op_type in VIEWS or all(reader.op_type in _LIGHT for reader in self.readers[tensor.name]):
                before, count = self._chain[maker.name]
                heavy, steps = before, max(steps, count + 1)
        if not heavy:
            return ""
        self._chain[work.name] = (heavy, steps)
        return f"{heavy}{min(steps, _LONGEST_CHAIN)}"
