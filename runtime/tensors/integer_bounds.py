"""How large an integer input of a model may be without an overflow in what is computed from it.

Engines may compute integers in float32, or 64 bits in 32: small values do not show it. An overflow is no test: what it
gives is not defined. So the largest magnitude is searched for which nothing computed from an input leaves its dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from .dtypes import bits_of, onnx_dtype_name
from .input_roles import MOVING_OPS, DataFlow, is_argument_or_index

_COMPARING_OPS = frozenset("Equal Less LessOrEqual Greater GreaterOrEqual IsNaN IsInf And Or Xor Not".split())
"""Operators whose output is bool."""
_READING_OPS = frozenset(["Shape", "Size"])
_ABSORBING_OPS = frozenset(
    "DequantizeLinear MatMulInteger ConvInteger QLinearMatMul QLinearConv QLinearAdd QLinearMul".split()
)
"""Operators that take all values of 8-bit integers."""
_SAME_MAGNITUDE_OPS = frozenset(
    "Neg Abs Sign Floor Ceil Round Clip ReduceMax ReduceMin TopK Unique ArgMax ArgMin BitwiseNot Max Min Where Mod "
    "BitwiseAnd BitwiseOr BitwiseXor".split()
)
_SUMMING_OPS = frozenset(["ReduceSum", "ReduceMean", "CumSum", "ReduceL1", "ReduceSumSquare"])
_DIVIDING_OPS = frozenset(["Div", "Mod"])
_FLOAT_MAX = {"float16": 3e4, "float32": 1e30, "float64": 1e30, "bfloat16": 1e30}
_UNKNOWN_COUNT = 10_000
_NODES_MAX = 2000
_NARROW_BITS = 32


@dataclass(frozen=True)
class IntegerBound:
    """The values that an integer input may have."""

    magnitude: int
    """Largest absolute value."""
    is_divisor: bool = False
    """It must not be 0."""
    becomes_float: bool = False
    """It is converted to a float somewhere."""


class _Unbounded(Exception):
    """What is computed from the input overflows, or is unknown."""


def integer_bound(flow: DataFlow, name: str, dtype: str, *, narrow: bool = False) -> IntegerBound | None:
    """Return the largest values of an input that a model only computes with.

    Parameters
    ----------
    flow : DataFlow
        Of the model.
    name, dtype : str
        The input.
    narrow : bool
        Whether 64-bit integers may need 32 bits only.

    Returns
    -------
    IntegerBound or None
        None where its values have another meaning (an index, a shape, a mask of a neural network) or are not read.
    """
    reached, is_divisor = _reached(flow, name)
    if not reached:
        return None
    largest = _largest(dtype, narrow=narrow)
    for exponent in range(largest.bit_length(), 1, -1):
        magnitude = min((1 << exponent) - 1, largest)
        try:
            becomes_float = _check(flow, name, dtype, reached, magnitude, narrow=narrow)
        except _Unbounded:
            continue
        return IntegerBound(magnitude, is_divisor, becomes_float)
    return None


def _largest(dtype: str, *, narrow: bool) -> int:
    bits = min(bits_of(dtype), _NARROW_BITS) if narrow else bits_of(dtype)
    return (1 << (bits - dtype.startswith("int"))) - 1


def _reached(flow: DataFlow, name: str) -> tuple[list[onnx.NodeProto], bool]:
    """Return the nodes that compute with an input, in order, and whether it is a divisor; none where it is unsafe."""
    derived: dict[str, bool] = {name: False}  # tensor -> whether it is computed from the input, not merely moved
    ids: set[int] = set()
    is_divisor, computes = False, False
    waiting = [name]
    while waiting:
        tensor = waiting.pop()
        for node, position in flow.readers.get(tensor, ()):
            op = node.op_type
            if is_argument_or_index(node, position) or (
                node.domain not in ("", "ai.onnx") and op not in _ABSORBING_OPS
            ):
                return [], False
            if op in _DIVIDING_OPS and position == 1:
                if derived[tensor]:
                    return [], False
                is_divisor = True
            computes |= op not in _READING_OPS
            if op in _READING_OPS | _ABSORBING_OPS:
                continue
            ids.add(id(node))
            if len(ids) > _NODES_MAX:
                return [], False
            for output in node.output[:1] if op in ("TopK", "Unique") else node.output:
                is_derived = derived[tensor] or op not in MOVING_OPS
                if output and (output not in derived or (is_derived and not derived[output])):
                    derived[output] = is_derived
                    waiting.append(output)
    nodes = [node for node in flow.nodes if id(node) in ids]
    return (nodes, is_divisor) if computes else ([], False)


def _check(flow: DataFlow, name: str, dtype: str, nodes: list[onnx.NodeProto], magnitude: int, *, narrow: bool) -> bool:
    """Follow a magnitude through the nodes; return whether it reaches a float.

    Raises
    ------
    _Unbounded
        When a tensor may leave its dtype.
    """
    bounds: dict[str, tuple[float, str]] = {name: (magnitude, dtype)}
    becomes_float = False
    for node in nodes:
        operands = [_operand(flow, tensor, bounds, magnitude) for tensor in node.input if tensor]
        source = next((bounds[tensor] for tensor in node.input if tensor in bounds), None)
        if source is None:  # reached only through an output that holds no values of the input
            continue
        target = _target(node, source[1], bounds, flow)
        bound = _result(node, operands, flow) if target != "bool" else 1.0
        if target.startswith("uint") and node.op_type in ("Sub", "Neg"):
            raise _Unbounded
        becomes_float |= target in _FLOAT_MAX and source[1] != "bool"
        if bound > _largest_of(target, narrow=narrow):
            raise _Unbounded
        bounds |= {output: (bound, target) for output in node.output if output}
    return becomes_float


def _target(node: onnx.NodeProto, source: str, bounds: dict[str, tuple[float, str]], flow: DataFlow) -> str:
    """Return the dtype of a node's output."""
    if node.op_type == "Cast":
        return onnx_dtype_name(next((a.i for a in node.attribute if a.name == "to"), 0)) or ""
    if node.op_type in _COMPARING_OPS:
        return "bool"
    if node.op_type in ("ArgMax", "ArgMin"):
        return "int64"
    if node.op_type == "Where":
        known = [bounds[tensor][1] for tensor in node.input[1:] if tensor in bounds]
        known += [c.dtype.name for c in map(flow.constant, node.input[1:]) if c is not None]
        return known[0] if known else "float32"
    return source


def _largest_of(dtype: str, *, narrow: bool) -> float:
    if dtype == "bool" or dtype in _FLOAT_MAX:
        return _FLOAT_MAX.get(dtype, 1.0)
    if not dtype.startswith(("int", "uint")):
        raise _Unbounded
    return _largest(dtype, narrow=narrow)


def _operand(flow: DataFlow, tensor: str, bounds: dict[str, tuple[float, str]], magnitude: int) -> float:
    if tensor in bounds:
        return bounds[tensor][0]
    constant = flow.constant(tensor)
    if constant is None or constant.dtype.kind not in "iufb" or not constant.size:
        return magnitude  # another input: as large as this one
    largest = max(abs(value) for value in constant.reshape(-1).tolist())
    return int(largest) if float(largest).is_integer() else float(largest)


def _result(node: onnx.NodeProto, operands: list[float], flow: DataFlow) -> float:
    """Return the largest magnitude of a node's output, given those of its inputs.

    Raises
    ------
    _Unbounded
        For an operator that is not arithmetic.
    """
    op = node.op_type
    if op == "Where":
        return max(operands[1:])
    if op in ("Add", "Sub", "Sum"):
        return sum(operands)
    if op in ("Cast", "Identity") or op in MOVING_OPS:
        return max(operands) if op == "Concat" else operands[0]
    if op in _SAME_MAGNITUDE_OPS:
        return max(operands)
    if op == "Mul":
        return prod(operands)
    if op == "Div":
        divisor = flow.constant(node.input[1])
        smallest = float(np.min(np.abs(divisor.astype(np.float64)))) if divisor is not None and divisor.size else 1.0
        if smallest == 0:
            raise _Unbounded
        return operands[0] / smallest if smallest < 1 else operands[0]
    if op in _SUMMING_OPS:
        shape = flow.shape(node.input[0])
        power = 2 if op == "ReduceSumSquare" else 1
        return float(operands[0] ** power) * (prod(shape) if shape is not None else _UNKNOWN_COUNT)
    if op in ("MatMul", "Gemm"):
        return operands[0] * operands[1] * _UNKNOWN_COUNT
    if op == "BitShift":
        shift = flow.constant(node.input[1])
        if shift is not None and shift.size:
            return float(operands[0] * 2.0 ** float(np.max(shift)))
    raise _Unbounded
