"""Makes OpenVINO divide integers exactly: its CPU plugin divides them in float32, which holds 24 bits.

The quotient that it computes is off by little, so the remainder of that quotient, which is exact in integers, says by
how much: dividing it again and a last step of one give the right one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openvino as ov
from openvino import opset13 as ops

_DIVISIONS = ("Divide", "Mod", "FloorMod")
_WIDE = ("i32", "i64", "u32", "u64")
_CORRECTIONS = 2


def divide_exactly(model: ov.Model) -> None:
    """Replace the divisions of integers that a model computes from its inputs, those in control flow too.

    Divisions of shapes stay as they are: these numbers are small, and OpenVINO computes with their bounds.
    """
    for division in [node for node in _operators(model) if _is_inexact(node)]:
        dividend, divisor = (division.input_value(index) for index in (0, 1))
        quotient, remainder = _truncated(dividend, divisor)
        kind = division.get_type_name()
        if kind == "FloorMod":  # the remainder has the sign of the divisor, not of the dividend
            quotient = _floored(quotient, remainder, divisor)
        result = quotient if kind == "Divide" else _remainder(dividend, quotient, divisor)
        names = division.output(0).get_names()
        division.output(0).replace(result)
        result.set_names(names)


def _operators(model: ov.Model) -> Iterator[ov.Node]:
    """Yield the operators of a model and of the bodies inside it."""
    for node in model.get_ordered_ops():
        yield node
        kind = node.get_type_name()
        if kind == "If":
            for index in (0, 1):
                yield from _operators(node.get_function(index))
        elif kind in ("Loop", "TensorIterator"):
            yield from _operators(node.get_function())


def _is_inexact(node: ov.Node) -> bool:
    if node.get_type_name() not in _DIVISIONS or node.get_output_element_type(0).get_type_name() not in _WIDE:
        return False
    waiting: list[Any] = [node]
    seen: set[str] = set()
    while waiting:
        for index in range((reader := waiting.pop()).get_input_size()):
            source = reader.input_value(index).get_node()
            if source.get_type_name() == "Parameter":
                return True
            if source.get_type_name() != "ShapeOf" and source.get_friendly_name() not in seen:
                seen.add(source.get_friendly_name())
                waiting.append(source)
    return False


def _truncated(dividend: ov.Output, divisor: ov.Output) -> tuple[ov.Output, ov.Output]:
    """Return the quotient, rounded towards zero, and its remainder."""
    quotient = ops.divide(dividend, divisor).output(0)
    remainder = _remainder(dividend, quotient, divisor)
    for _ in range(_CORRECTIONS):
        more = ops.divide(remainder, divisor).output(0)
        quotient = ops.add(quotient, more).output(0)
        remainder = ops.subtract(remainder, ops.multiply(more, divisor)).output(0)
    zero = ops.constant(0, dtype=dividend.get_element_type()).output(0)
    one = ops.constant(1, dtype=dividend.get_element_type()).output(0)
    # The remainder now is less than the divisor, but may have the other sign than the dividend, or be equal to it.
    has_other_sign = ops.logical_and(
        ops.not_equal(remainder, zero),
        ops.not_equal(ops.less(remainder, zero), ops.less(dividend, zero)),
    )
    is_negative = ops.not_equal(ops.less(dividend, zero), ops.less(divisor, zero))
    step = ops.select(has_other_sign, ops.select(is_negative, ops.subtract(zero, one), one), zero).output(0)
    quotient = ops.subtract(quotient, step).output(0)
    remainder = ops.add(remainder, ops.multiply(step, divisor)).output(0)
    return quotient, remainder


def _remainder(dividend: ov.Output, quotient: ov.Output, divisor: ov.Output) -> ov.Output:
    return ops.subtract(dividend, ops.multiply(quotient, divisor)).output(0)


def _floored(quotient: ov.Output, remainder: ov.Output, divisor: ov.Output) -> ov.Output:
    """Return a quotient, rounded downwards."""
    zero = ops.constant(0, dtype=divisor.get_element_type()).output(0)
    one = ops.constant(1, dtype=divisor.get_element_type()).output(0)
    has_other_sign = ops.logical_and(
        ops.not_equal(remainder, zero), ops.not_equal(ops.less(remainder, zero), ops.less(divisor, zero))
    )
    return ops.subtract(quotient, ops.select(has_other_sign, one, zero)).output(0)
