"""The cost terms of a segment: one for each operator in its context, and those of the tensors at its boundary.

The cost of an operator depends on the other operators of its segment: an activation after a convolution is nearly free,
the same activation at the start of a segment is a pass over memory, and a tensor that leaves a segment has to be
converted from the blocked layout that convolutions use.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
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
    op_term,
)
from .op_instance import OpInstance, OpTensor

_LIGHT = ELEMENTWISE | {"BatchNormalization"}
_LAYOUT_AGNOSTIC = CONVOLUTIONS | POOLS | _LIGHT | {"Concat", "Resize", "Identity"}
_MAX_CHAIN = 3
_CALL = CostTerm("call")


def segment_terms(
    ops: Sequence[OpInstance], outputs: Sequence[str], channels_last: Collection[str] = ()
) -> list[CostTerm]:
    """Return the cost terms of a segment.

    Parameters
    ----------
    ops : sequence of OpInstance
        Its operators, in topological order.
    outputs : sequence of str
        Tensors that leave it.
    channels_last : collection of str
        Tensors that enter or leave it in the layout of convolutions, so that nothing converts them.

    Returns
    -------
    list of CostTerm
        Those of each operator in the order of `ops`, then those of the boundary, then that of the call.

    Examples
    --------
    >>> x, y, z = (OpTensor(name, (1, 64), 256) for name in "xyz")
    >>> relu, tanh = OpInstance("a", "Relu", (x,), (y,)), OpInstance("b", "Tanh", (y,), (z,))
    >>> [term.kind for term in segment_terms([relu, tanh], ["z"])]
    ['elementwise', 'elementwise', 'border', 'border', 'call']
    """
    context = _SegmentContext(ops, set(outputs), frozenset(channels_last))
    terms = [term for op in ops for term in context.terms(op)]
    entering = {t.name: t for op in ops for t in op.varying if t.name not in context.producer}
    leaving = [t for op in ops for t in op.outputs if t.name in context.leaving]
    terms += [boundary_term(tensor, "in") for tensor in entering.values()]
    terms += [boundary_term(tensor, "out") for tensor in leaving]
    return [*terms, _CALL]


def node_terms(ops: Sequence[OpInstance], outputs: Sequence[str]) -> dict[str, list[CostTerm]]:
    """Return the cost terms of each operator of a segment by its name, without those of the boundary."""
    context = _SegmentContext(ops, set(outputs))
    return {op.name: context.terms(op) for op in ops}


@dataclass(frozen=True)
class BoundaryTerms:
    """The cost terms that a tensor adds to the segment that it leaves and to each one that it enters."""

    leave: tuple[CostTerm, ...]
    enter: tuple[CostTerm, ...]
    is_channels_last: bool = False
    """Whether its producer and all its consumers use the layout of convolutions."""

    @property
    def in_nhwc(self) -> tuple[tuple[CostTerm, ...], tuple[CostTerm, ...]]:
        """The terms of leaving and of entering where the tensor crosses in NHWC layout: nothing is reordered."""
        return self.leave[:1], self.enter[:1]


def boundary_terms(ops: Sequence[OpInstance]) -> dict[str, BoundaryTerms]:
    """Return the cost terms that a cut adds, for each tensor between operators.

    Parameters
    ----------
    ops : sequence of OpInstance
        All operators, in topological order.

    Examples
    --------
    >>> x, y, z = (OpTensor(name, (1, 64), 256) for name in "xyz")
    >>> tensors = boundary_terms([OpInstance("a", "Relu", (x,), (y,)), OpInstance("b", "Tanh", (y,), (z,))])
    >>> {name: [term.categories for term in (*terms.leave, *terms.enter)] for name, terms in tensors.items()}
    {'y': [('out',), ('in',)]}
    """
    context = _SegmentContext(ops, set())
    for op in ops:
        context.terms(op)
    tensors = {}
    for op in ops:
        for tensor in op.outputs:
            consumers = context.consumers[tensor.name]
            if not consumers:
                continue
            leave, enter = [boundary_term(tensor, "out")], [boundary_term(tensor, "in")]
            if context.is_blocked(op):
                leave.append(layout_term(tensor, "leave"))
            if any(map(_is_convolution_2d, consumers)):
                enter.append(layout_term(tensor, "enter"))
            is_channels_last = context.is_blocked(op) and all(map(_keeps_layout, consumers))
            tensors[tensor.name] = BoundaryTerms(tuple(leave), tuple(enter), is_channels_last)
    return tensors


def _keeps_layout(op: OpInstance) -> bool:
    """Return whether an operator can read and write the layout of convolutions."""
    return len(op.outputs[0].shape) == 4 and op.op_type in _LAYOUT_AGNOSTIC


def _is_convolution_2d(op: OpInstance) -> bool:
    """Return whether an operator needs its input in the layout of convolutions."""
    return op.op_type in CONVOLUTIONS and len(op.outputs[0].shape) == 4


class _SegmentContext:
    """Fusion chains and layouts of a segment; `terms` has to be called once per operator, in topological order."""

    def __init__(
        self, ops: Sequence[OpInstance], leaving: set[str], channels_last: frozenset[str] = frozenset()
    ) -> None:
        self.leaving = leaving
        self._channels_last = channels_last
        self.producer: dict[str, OpInstance] = {t.name: op for op in ops for t in op.outputs}
        self.consumers: Mapping[str, list[OpInstance]] = defaultdict(list)
        for op in ops:
            for tensor in op.inputs:
                if tensor is not None and tensor.name in self.producer:
                    self.consumers[tensor.name].append(op)
        self._chain: dict[str, tuple[str, int]] = {}
        self._blocked: set[str] = set()

    def is_blocked(self, op: OpInstance) -> bool:
        """Return whether an operator's output is in the layout of convolutions."""
        return op.name in self._blocked

    def terms(self, op: OpInstance) -> list[CostTerm]:
        """Return the cost terms of one operator: of layout conversions first, then its own."""
        if not op.outputs or self._is_weight(op):
            return []
        output = op.outputs[0]
        inputs = [(tensor, self.producer.get(tensor.name)) for tensor in op.varying]
        eight_bit, dequantised, quantised = self._quantisation(op)
        follows = self._follows(op, inputs, eight_bit)
        reads_blocked = any(self._is_blocked_input(tensor, producer) for tensor, producer in inputs)
        keeps_layout = _keeps_layout(op)
        terms = []
        for tensor, producer in inputs:
            is_blocked = self._is_blocked_input(tensor, producer)
            if _is_convolution_2d(op) and not is_blocked:
                terms.append(layout_term(tensor, "enter" if producer is None else "in"))
            elif is_blocked and not keeps_layout:
                terms.append(layout_term(tensor, "out"))
        if keeps_layout and (op.op_type in CONVOLUTIONS or reads_blocked):
            self._blocked.add(op.name)
            if output.name in self.leaving and output.name not in self._channels_last:
                terms.append(layout_term(output, "leave"))
        return [*terms, op_term(op, OpContext(follows, eight_bit, dequantised, quantised, reads_blocked))]

    def _is_blocked_input(self, tensor: OpTensor, producer: OpInstance | None) -> bool:
        if producer is None:
            return tensor.name in self._channels_last
        return self.is_blocked(producer)

    def _is_weight(self, op: OpInstance) -> bool:
        """Return whether an operator dequantises a weight, which an engine does once when it loads the model."""
        first = op.inputs[0] if op.inputs else None
        return op.op_type == "DequantizeLinear" and first is not None and first.constant

    def _quantisation(self, op: OpInstance) -> tuple[bool, bool, bool]:
        """Return whether an operator computes in 8 bits, reads dequantised activations, and is quantised after."""
        producers = [self.producer.get(t.name) for t in op.inputs if t is not None]
        dequantisers = [p for p in producers if p is not None and p.op_type == "DequantizeLinear"]
        dequantised = any(not self._is_weight(producer) for producer in dequantisers)
        weights = any(self._is_weight(producer) for producer in dequantisers)
        quantised = any(consumer.op_type == "QuantizeLinear" for consumer in self.consumers[op.outputs[0].name])
        return (dequantised and (quantised or weights)) or is_integer_op(op), dequantised, quantised

    def _follows(self, op: OpInstance, inputs: list[tuple[OpTensor, OpInstance | None]], eight_bit: bool) -> str:
        """Return the heavy operator with which a light one may be fused, and the distance to it."""
        suffix = ", 8 bits " if eight_bit else ""
        if op.op_type in CONVOLUTIONS or op.op_type in PRODUCTS:
            self._chain[op.name] = (("conv" if op.op_type in CONVOLUTIONS else "product") + suffix, 0)
            return ""
        if op.op_type not in _LIGHT and op.op_type not in VIEWS:
            return ""
        heavy, steps = "", 0
        for tensor, producer in inputs:
            if producer is None or producer.name not in self._chain or tensor.name in self.leaving:
                continue
            if op.op_type in VIEWS or all(reader.op_type in _LIGHT for reader in self.consumers[tensor.name]):
                heavy, count = self._chain[producer.name]
                steps = max(steps, count + 1)
        if not heavy:
            return ""
        self._chain[op.name] = (heavy, steps)
        return f"{heavy}{min(steps, _MAX_CHAIN)}"
