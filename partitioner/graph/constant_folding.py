"""Folds constants: computes the nodes whose results follow from shapes and small constants alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from itertools import zip_longest
from math import prod

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, parser
from onnx.reference import ReferenceEvaluator

log = logging.getLogger(__name__)

FOLDED_ELEMENTS_MAX = 4096
"""Number of elements of the largest tensor that is constant-folded."""

# Exact in any engine: integers, comparisons, and float operations that IEEE 754 rounds correctly. What engines decide
# for themselves is left to them: `_is_certain`.
_FOLDABLE = frozenset(
    "Abs Add And Cast Ceil Clip Concat ConstantOfShape Div Equal Expand Flatten Floor Gather GatherElements GatherND "
    "Greater GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul Neg Not Or Range ReduceMax ReduceMin ReduceProd "
    "Reshape ScatterElements ScatterND Shape Sign Size Slice Split Squeeze Sub Tile Transpose Unsqueeze "
    "Where Xor".split()
)

_DATA_MOVEMENT = frozenset(
    "Concat ConstantOfShape Expand Flatten Gather GatherElements GatherND Identity Reshape Shape Size Slice Split "
    "Squeeze Tile Transpose Unsqueeze".split()
)
_ROUNDED_IN_STEPS = frozenset(("Mod", "Range", "ReduceProd"))
"""Their result depends on the order and the rounding of their steps, for floats."""
_NARROWED, _NARROW_MAX = frozenset(("Clip", "Max", "Min", "Mod", "Range", "Sign")), 2**31 - 1
"""Operators that some engines compute in 32 bits for larger integers, too."""
_INTEGERS = frozenset(ir.DataType[f"{sign}INT{bits}"] for sign in ("", "U") for bits in (8, 16, 32, 64))
_INT64_MAX = 2**63 - 1
_FLOAT_MAX = float(np.finfo(np.float32).max)
_ELEMENTWISE = frozenset(
    "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mod Mul Or Sub Where Xor".split()
)
"""Operators whose inputs are broadcast to a common shape, which may be larger than all of them."""


@cache
def load_operators() -> None:
    """Load ONNX's reference operators, which takes a moment, here instead of in each forked process."""
    text = '<ir_version: 10, opset_import: ["": 18]> g (float[1] x) => (float[1] y) { y = Identity(x) }'
    ReferenceEvaluator(parser.parse_model(text))


def fold(
    model: ir.Model,
    folded: Mapping[str, np.ndarray],
    small: Mapping[str, np.ndarray],
    types: Mapping[str, onnx.ValueInfoProto],
) -> dict[str, np.ndarray]:
    """Compute the nodes whose inputs are all known and whose outputs are small."""
    known = {**small, **folded}
    outputs = {value.name for value in model.graph.outputs}
    fresh: dict[str, np.ndarray] = {}
    opsets = [helper.make_opsetid(d, v) for d, v in model.graph.opset_imports.items() if d == ""]
    for node in model.graph:
        names = [value.name or "" for value in node.outputs]
        if node.domain or node.op_type not in _FOLDABLE or all(n in known for n in names if n) or set(names) & outputs:
            continue
        if node.op_type in ("Shape", "Size"):
            shape = _static_shape(node.inputs[0], types, known)
            results = None if shape is None or prod(shape) > _INT64_MAX else [_shape_value(node, shape)]
        elif all(v is None or v.name in known for v in node.inputs):
            if not _is_small(node, known):
                continue
            feeds = {v.name: known[v.name] for v in node.inputs if v is not None and v.name}
            results = _evaluate(node, feeds, opsets) if _is_certain(node, list(feeds.values())) else None
        else:
            continue
        if results is not None and all(r.size <= FOLDED_ELEMENTS_MAX for r in results):
            named = dict(zip(filter(None, names), results, strict=True))
            fresh.update(named)
            known.update(named)
    return fresh


def _shape_value(node: ir.Node, shape: tuple[int, ...]) -> np.ndarray:
    if node.op_type == "Size":
        return np.array(prod(shape), dtype=np.int64)
    start, end = (node.attributes[k].as_int() if k in node.attributes else None for k in ("start", "end"))
    return np.array(shape[start:end], dtype=np.int64)


def _is_small(node: ir.Node, known: Mapping[str, np.ndarray]) -> bool:
    """Return whether an operator whose output may exceed its inputs has a small output; checked before it runs."""
    arrays = [known[v.name] for v in node.inputs if v is not None and v.name]
    if node.op_type == "Range":
        if any(a.size != 1 for a in arrays):
            return False
        start, limit, delta = (a.item() for a in arrays)
        return bool(delta) and bool((limit - start) / delta <= FOLDED_ELEMENTS_MAX)
    if node.op_type in ("Expand", "ConstantOfShape", "Tile"):
        size = float(np.prod(np.abs(arrays[-1].astype(np.float64))))
        return size * (1 if node.op_type == "ConstantOfShape" else arrays[0].size) <= FOLDED_ELEMENTS_MAX
    if node.op_type == "Concat":
        return sum(a.size for a in arrays) <= FOLDED_ELEMENTS_MAX
    if node.op_type in _ELEMENTWISE:
        axes = zip_longest(*(reversed(a.shape) for a in arrays), fillvalue=1)
        return bool(prod(max(axis) for axis in axes) <= FOLDED_ELEMENTS_MAX)
    return True


def _is_certain(node: ir.Node, arrays: list[np.ndarray]) -> bool:
    """Return whether all engines compute the same from these values, to the bit."""
    if node.op_type in _DATA_MOVEMENT:
        return True
    if any(a.dtype.kind not in "biuf" or a.dtype == np.float16 for a in arrays):
        return False  # engines compute the small floats in wider ones, and round when they like
    if any(a.dtype.kind == "f" for a in arrays):
        floats = [a for a in arrays if a.dtype.kind == "f"]
        if not all(np.isfinite(a).all() and not (np.signbit(a) & (a == 0)).any() for a in floats):
            return False
        if node.op_type in _ROUNDED_IN_STEPS or (node.op_type == "Div" and not arrays[1].all()):
            return False
    elif node.op_type in _NARROWED and any(_is_wide(a) for a in arrays):
        return False
    if node.op_type == "Cast":
        return _is_certain_cast(arrays[0], ir.DataType(node.attributes["to"].as_int()))
    # Engines truncate or floor the quotient of negative numbers, and some end at a division by zero.
    return node.op_type not in ("Div", "Mod") or arrays[0].dtype.kind == "f" or _is_plain_division(*arrays)


def _is_wide(array: np.ndarray) -> bool:
    return array.size > 0 and (int(array.max()) > _NARROW_MAX or int(array.min()) < -_NARROW_MAX)


def _is_plain_division(dividend: np.ndarray, divisor: np.ndarray) -> bool:
    return bool((dividend >= 0).all() and (divisor > 0).all())


def _is_certain_cast(array: np.ndarray, to: ir.DataType) -> bool:
    """Return whether a cast is exact; text, overflow and rounding to small floats differ between engines."""
    if to in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.BOOL):
        return array.dtype.kind != "f" or to != ir.DataType.FLOAT or bool((np.abs(array) <= _FLOAT_MAX).all())
    if to not in _INTEGERS:
        return False
    limits = np.iinfo(to.numpy())
    # Compared as Python's numbers: those of numpy would be rounded to a common dtype.
    return all(limits.min <= number <= limits.max for number in array.reshape(-1).tolist())


def _evaluate(
    node: ir.Node, feeds: dict[str, np.ndarray], opsets: list[onnx.OperatorSetIdProto]
) -> list[np.ndarray] | None:
    """Run one node on ONNX's reference implementation; None where it fails."""
    names = [v.name for v in node.outputs if v.name]
    graph = helper.make_graph(
        [ir.serde.serialize_node(node)],
        "fold",
        [onnx.ValueInfoProto(name=n) for n in feeds],
        [onnx.ValueInfoProto(name=n) for n in names],
    )
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, feeds)
    except Exception as error:  # the reference lacks some dtypes and versions; the node then runs on a device
        log.debug("%s is not constant-folded: %s", node.name, error)
        return None
    return [np.asarray(r) for r in results] if all(isinstance(r, (np.ndarray, np.generic)) for r in results) else None


def _static_shape(
    value: ir.Value | None, types: Mapping[str, onnx.ValueInfoProto], known: Mapping[str, np.ndarray]
) -> tuple[int, ...] | None:
    if value is None or not value.name:
        return None
    if value.name in known:
        return known[value.name].shape
    if value.producer() is None:
        return tuple(value.shape.numpy()) if value.shape is not None and value.shape.is_static() else None
    if value.name not in types:
        return None  # the file may declare a shape, which may be that of another batch
    tensor = types[value.name].type.tensor_type
    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return tuple(d.dim_value for d in tensor.shape.dim)
