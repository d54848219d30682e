"""Finds which values of a graph may need 64 bits, and which may be infinite or NaN.

An engine may compute 64-bit numbers in 32 bits. That changes no answer where the numbers are sizes, indices and flags,
whose ranges follow from the graph: interval arithmetic over its integers, from the ranges of constants and dtypes.
Inputs of the model may hold any 64-bit number, unless the user states otherwise. Floats count as finite unless the
model itself contains an infinity or tests for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from ..graph.ir_values import dtype_of, subgraphs
from ..graph.model_graph import Graph

Range = tuple[int, int]
"""Lowest and highest value."""

WIDE_DTYPES = ("int64", "uint64", "uint32", "float64")
"""Dtypes of values that some engines compute in 32 bits (signed, for integers)."""
INT32_RANGE: Range = (-(1 << 31), (1 << 31) - 1)
_LIMITS: Mapping[str, Range] = {"bool": (0, 1)} | {
    f"{sign}int{bits}": (0, (1 << bits) - 1) if sign else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    for bits in (2, 4, 8, 16, 32, 64)
    for sign in ("", "u")
}
_SIZE_RANGE: Range = (0, 1 << 24)
"""Of a dimension, and of an index, that depends on values."""
_EXAMINED_BYTES_MAX = 1 << 20
_BOUNDED = frozenset("Softmax Sigmoid HardSigmoid Tanh Erf Sign Softsign Sin Cos Atan".split())
_SIGN_CHANGING = frozenset("Sub Neg Mul Div MatMul Gemm Conv Einsum Pow".split())
_SAME_RANGE = frozenset(
    "Identity Reshape Transpose Squeeze Unsqueeze Flatten Gather GatherElements GatherND Slice Expand Tile Split "
    "DepthToSpace SpaceToDepth ReduceMax ReduceMin ReduceMean Compress ReverseSequence MaxPool Dropout Trilu".split()
)
_INDICES = frozenset("Shape Size NonZero ArgMax ArgMin NonMaxSuppression".split())


@dataclass(frozen=True)
class ValueRanges:
    """What is known of the values of a graph before it runs."""

    wide: frozenset[str]
    """Values of a 64-bit dtype (or uint32) that may not fit into 32 bits."""
    special: Mapping[str, str]
    """Value -> which it may contain, as letters: ``+`` infinity, ``-`` minus infinity, ``n`` NaN; others are finite."""

    def kind(self, name: str) -> str:
        """Return the letters of a value: ``w`` where it is wide, and those of `special`."""
        return ("w" if name in self.wide else "") + self.special.get(name, "")


def value_ranges(graph: Graph, *, narrow: bool = False, finite: bool = True) -> ValueRanges:
    """Return what is known of the values of a graph.

    Parameters
    ----------
    graph : Graph
    narrow : bool
        Whether the user states that no number fed to the model or computed by it needs more than 32 bits.
    finite : bool
        Whether inputs are finite, in a model that does not test for NaN or infinities.

    Examples
    --------
    >>> import tempfile, onnx
    >>> from pathlib import Path
    >>> from onnx import parser
    >>> text = '''<ir_version: 10, opset_import: ["": 18]> g (int64[3] x, float[9] t) => (float[3] y, int64[3] z) {
    ...     two = Constant<value = int64 {2}>() a = ArgMax(t) z = Mul(x, two) b = Mul(a, two) y = Gather(t, x) }'''
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     onnx.save(parser.parse_model(text), Path(folder) / "g.onnx")
    ...     sorted(value_ranges(Graph.read(Path(folder) / "g.onnx")).wide)
    ['x', 'z']
    """
    known = {name: _constant_range(value) for name, value in _constants(graph)}
    wide: set[str] | None = None if narrow else set()
    ranges = {name: one for name, one in known.items() if one is not None}
    specials = {name: letters for name, value in _constants(graph) if (letters := _constant_special(value))}
    is_tested = any(node.op_type in ("IsNaN", "IsInf") for node in _all_nodes(graph))
    for value in graph.model.graph.inputs:
        name, dtype = str(value.name), dtype_of(value)
        if name in ranges:
            continue
        if dtype in _LIMITS:
            ranges[name] = _LIMITS[dtype]
        elif "float" in dtype and (is_tested or not finite):
            specials[name] = "+-n"
        if wide is not None and _is_wide(dtype, ranges.get(name)):
            wide.add(name)
    if wide is not None:
        wide |= {n for n, one in known.items() if one is not None and not _within(one, INT32_RANGE)}
    for node in graph.nodes.values():
        for position, output in enumerate(node.outputs):
            name = str(output.name)
            if not name or name in known:
                continue
            dtype = dtype_of(output)
            if dtype in _LIMITS:
                computed = _output_range(node, position, ranges)
                limits = _LIMITS[dtype]
                ranges[name] = computed if computed is not None and _within(computed, limits) else limits
            elif flags := _special(node, specials, is_tested):
                specials[name] = flags
            if wide is not None and _is_wide(dtype, ranges.get(name)):
                wide.add(name)
    return ValueRanges(frozenset(wide or ()), specials)


def _all_nodes(graph: Graph) -> Iterator[ir.Node]:
    for node in graph.nodes.values():
        yield node
        for body in subgraphs(node):
            yield from ir.traversal.RecursiveGraphIterator(body)


def _is_wide(dtype: str, value_range: Range | None) -> bool:
    return dtype in WIDE_DTYPES and (value_range is None or not _within(value_range, INT32_RANGE))


def _within(inner: Range, outer: Range) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _constants(graph: Graph) -> Iterator[tuple[str, np.ndarray | ir.TensorProtocol]]:
    yield from graph.folded.items()
    yield from ((name, tensor) for name, tensor in graph.constants.items() if name not in graph.folded)


def _constant_range(value: np.ndarray | ir.TensorProtocol) -> Range | None:
    """Return the range of an integer constant; that of its dtype where it is too large to be examined."""
    dtype = value.dtype.name if isinstance(value, np.ndarray) else value.dtype.numpy().name
    if dtype not in _LIMITS:
        return None
    if value.nbytes > _EXAMINED_BYTES_MAX:
        return _LIMITS[dtype]
    array = _array(value)
    return (int(array.min()), int(array.max())) if array.size else (0, 0)


def _constant_special(value: np.ndarray | ir.TensorProtocol) -> str:
    if value.nbytes > _EXAMINED_BYTES_MAX or not value.nbytes:
        return ""
    dtype = value.dtype.name if isinstance(value, np.ndarray) else value.dtype.numpy().name
    if dtype not in ("float32", "float64", "float16", "bfloat16"):
        return ""
    array = _array(value)
    if np.isfinite(array).all():
        return ""
    tests = (("+", np.isposinf), ("-", np.isneginf), ("n", np.isnan))
    return "".join(letter for letter, test in tests if test(array.astype(np.float64)).any())


def _array(value: np.ndarray | ir.TensorProtocol) -> np.ndarray:
    return np.asarray(value if isinstance(value, np.ndarray) else value.numpy())


def _special(node: ir.Node, specials: Mapping[str, str], is_tested: bool) -> str:
    inputs = [v for v in node.inputs if v is not None]
    if node.op_type == "Where":
        inputs = inputs[1:]
    flags = {letter for value in inputs for letter in specials.get(str(value.name), "")}
    if not flags:
        return ""
    if node.op_type in _BOUNDED:
        flags = {"n"} if "n" in flags or is_tested else set()
    elif node.op_type == "Exp":
        flags -= {"-"}
    elif node.op_type in _SIGN_CHANGING and flags & {"+", "-"}:
        flags |= {"+", "-"}
    if is_tested:
        flags |= {"n"}
    return "".join(sorted(flags))


def _output_range(node: ir.Node, position: int, ranges: Mapping[str, Range]) -> Range | None:
    """Return the range of an output; None where it is not known."""
    if node.domain not in ("", "ai.onnx"):
        return None
    op_type = node.op_type
    if op_type in _INDICES or (op_type in ("TopK", "Unique", "MaxPool") and position):
        return _SIZE_RANGE
    if op_type in ("OneHot", "EyeLike", "ConstantOfShape"):
        return _filled(node, ranges)
    rule = _RULES.get(op_type)
    inputs = [None if v is None else ranges.get(str(v.name)) for v in node.inputs]
    if op_type in ("Clip", "Pad"):
        return _clipped(inputs) if op_type == "Clip" else _union([inputs[0], (0, 0), *inputs[2:3]])
    if op_type in _SAME_RANGE:
        return _union([inputs[0], (0, 0)]) if op_type == "Trilu" else inputs[0]
    if op_type in ("ReduceSum", "CumSum"):
        count = _size(node.inputs[0])
        one = inputs[0]
        return None if one is None or count is None else (min(0, one[0] * count), max(0, one[1] * count))
    if rule is None or any(one is None for one in inputs) or not inputs:
        return None
    return rule([one for one in inputs if one is not None])


def _size(value: ir.Value | None) -> int | None:
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return prod(value.shape.numpy())


def _filled(node: ir.Node, ranges: Mapping[str, Range]) -> Range | None:
    if node.op_type == "OneHot":
        return ranges.get(str(node.inputs[2].name)) if node.inputs[2] is not None else None
    if node.op_type == "ConstantOfShape" and "value" in node.attributes:
        return _constant_range(node.attributes["value"].as_tensor())
    return (0, 1)


def _union(parts: Sequence[Range | None]) -> Range | None:
    present = [part for part in parts if part is not None]
    return (min(p[0] for p in present), max(p[1] for p in present)) if len(present) == len(parts) else None


def _clipped(inputs: Sequence[Range | None]) -> Range | None:
    value, low, high = (*inputs, None, None, None)[:3]
    if value is None:
        return None
    if low is not None:
        value = max(value[0], low[0]), max(value[1], low[1])
    return value if high is None else (min(value[0], high[0]), min(value[1], high[1]))


def _products(inputs: list[Range]) -> Range:
    products = [x * y for x in inputs[0] for y in inputs[1]]
    return min(products), max(products)


def _quotients(inputs: list[Range]) -> Range:
    largest = max(map(abs, inputs[0]))
    return (0, inputs[0][1]) if min(inputs[0][0], inputs[1][0]) >= 0 else (-largest, largest)


def _remainders(inputs: list[Range]) -> Range:
    largest = max(map(abs, inputs[1]))
    return (0, largest) if min(inputs[0][0], inputs[1][0]) >= 0 else (-largest, largest)


_RULES: Mapping[str, Callable[[list[Range]], Range | None]] = {
    "Cast": lambda i: i[0],
    "CastLike": lambda i: i[0],
    "Add": lambda i: (i[0][0] + i[1][0], i[0][1] + i[1][1]),
    "Sum": lambda i: (sum(one[0] for one in i), sum(one[1] for one in i)),
    "Sub": lambda i: (i[0][0] - i[1][1], i[0][1] - i[1][0]),
    "Mul": _products,
    "Div": _quotients,
    "Mod": _remainders,
    "Neg": lambda i: (-i[0][1], -i[0][0]),
    "Abs": lambda i: (0, max(map(abs, i[0]))),
    "Sign": lambda i: (-1, 1),
    "Max": lambda i: (max(one[0] for one in i), max(one[1] for one in i)),
    "Min": lambda i: (min(one[0] for one in i), min(one[1] for one in i)),
    "Concat": _union,
    "Where": lambda i: _union(i[1:]),
    "Range": lambda i: _union(i[:2]),
    "ScatterElements": lambda i: _union([i[0], i[2]]),
    "ScatterND": lambda i: _union([i[0], i[2]]),
}
"""Operator -> the range of its result, from those of all its inputs."""
