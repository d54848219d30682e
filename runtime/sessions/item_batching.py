"""Concatenates small items into one run and splits its outputs again (micro-batching).

Every run has a fixed cost, which items that are computed together pay once. Only models whose inputs and outputs all
begin with the same free dimension can be run so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import InvalidInput
from ..plans.plan import Plan
from ..tensors.tensor_spec import Arrays, TensorSpec


def check_batchable(plan: Plan) -> None:
    """Check that items of a plan can be concatenated.

    Raises
    ------
    InvalidInput
        Where an input or output does not begin with the shared free dimension; names it.
    """
    specs = (*plan.inputs, *plan.outputs)
    dims = [spec.shape[0] if spec.shape else None for spec in specs]
    for spec, dim in zip(specs, dims, strict=True):
        if not _has_free_dimension(spec) or dim != dims[0]:
            raise InvalidInput(
                f"items of {plan.model} cannot be batched: {spec.name!r} does not begin with a free dimension that all "
                f"inputs and outputs share",
                remedy="split the model without binding its batch dimension, or leave micro_batch out",
            )


def _has_free_dimension(spec: TensorSpec) -> bool:
    return bool(spec.shape) and isinstance(spec.shape[0], str) and spec.shape[0] not in ("?", "...")


def can_concatenate(first: Arrays, other: Arrays) -> bool:
    """Return whether the arrays of two items differ in their first dimension only."""
    return all(
        name in other and array.ndim > 0 and array.shape[1:] == other[name].shape[1:] and other[name].ndim > 0
        for name, array in first.items()
    )


def concatenate(items: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Return one item that holds several.

    Examples
    --------
    >>> concatenate([{"x": np.zeros((1, 2))}, {"x": np.ones((3, 2))}])["x"].shape
    (4, 2)
    """
    if len(items) == 1:
        return dict(items[0])
    return {name: np.concatenate([item[name] for item in items]) for name in items[0]}


def split_outputs(items: Sequence[Arrays], outputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return the outputs of each item, from those of all items together.

    Raises
    ------
    InvalidInput
        For an output whose number of rows is not that of the inputs.

    Examples
    --------
    >>> items = [{"x": np.zeros((1, 2))}, {"x": np.ones((3, 2))}]
    >>> [single["y"].shape for single in split_outputs(items, {"y": np.zeros((4, 5))})]
    [(1, 5), (3, 5)]
    """
    if len(items) == 1:
        return [dict(outputs)]
    rows = [len(next(iter(item.values()))) for item in items]
    wrong = next((name for name, array in outputs.items() if not array.shape or len(array) != sum(rows)), None)
    if wrong is not None:
        raise InvalidInput(
            f"output {wrong!r} has the shape {outputs[wrong].shape}, which cannot be split into items with {sum(rows)} "
            f"rows in all",
            remedy="leave micro_batch out",
        )
    ends = np.cumsum(rows)
    # Copies: an output that the caller keeps must not keep those of all other items.
    return [
        {name: array[end - count : end].copy() for name, array in outputs.items()}
        for count, end in zip(rows, ends.tolist(), strict=True)
    ]
