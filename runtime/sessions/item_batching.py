"""Small items put together into one run, and its outputs taken apart again.

A run has a price of its own, which small items pay each; together they pay it once. Only models whose every input and
output begins with the same free dimension can be run so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import InvalidInput
from ..plans.plan import Plan
from ..tensors.tensor_spec import Arrays, TensorSpec


def refuse_unbatched(plan: Plan) -> None:
    """Check that items of a plan can be put together.

    Raises
    ------
    InvalidInput
        Naming the input or output that has no such dimension.
    """
    ends = (*plan.inputs, *plan.outputs)
    dims = [spec.shape[0] if spec.shape else None for spec in ends]
    for spec, dim in zip(ends, dims, strict=True):
        if not _is_free(spec) or dim != dims[0]:
            raise InvalidInput(
                f"items of {plan.model} cannot be put together: {spec.name!r} does not begin with the free dimension "
                f"that all inputs and outputs share",
                remedy="split the model without binding its batch dimension, or leave micro_batch out",
            )


def _is_free(spec: TensorSpec) -> bool:
    return bool(spec.shape) and isinstance(spec.shape[0], str) and spec.shape[0] not in ("?", "...")


def fit_together(first: Arrays, other: Arrays) -> bool:
    """Whether two items differ along the first dimension only."""
    return all(
        name in other and array.ndim > 0 and array.shape[1:] == other[name].shape[1:] and other[name].ndim > 0
        for name, array in first.items()
    )


def join(items: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """One item of several.

    Examples
    --------
    >>> join([{"x": np.zeros((1, 2))}, {"x": np.ones((3, 2))}])["x"].shape
    (4, 2)
    """
    if len(items) == 1:
        return dict(items[0])
    return {name: np.concatenate([item[name] for item in items]) for name in items[0]}


def part(items: Sequence[Arrays], outputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The outputs of each of several items, from those of all.

    Raises
    ------
    InvalidInput
        For an output that has not as many rows as went in.

    Examples
    --------
    >>> items = [{"x": np.zeros((1, 2))}, {"x": np.ones((3, 2))}]
    >>> [found["y"].shape for found in part(items, {"y": np.zeros((4, 5))})]
    [(1, 5), (3, 5)]
    """
    if len(items) == 1:
        return [dict(outputs)]
    rows = [len(next(iter(item.values()))) for item in items]
    wrong = next((name for name, array in outputs.items() if not array.shape or len(array) != sum(rows)), None)
    if wrong is not None:
        raise InvalidInput(f"output {wrong!r} cannot be parted into items", remedy="leave micro_batch out")
    ends = np.cumsum(rows)
    # Copies: an item that is kept must not keep all the others.
    return [
        {name: array[end - count : end].copy() for name, array in outputs.items()}
        for count, end in zip(rows, ends.tolist(), strict=True)
    ]
