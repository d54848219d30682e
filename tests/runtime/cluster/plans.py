"""A segment that takes some milliseconds, and whose answer is easily told."""

from __future__ import annotations

import itertools

import numpy as np

SIZE = 192


def step(source: str, target: str) -> str:
    """The same numbers, plus 6."""
    names = [source, *(f"{target}{i}" for i in range(5)), target]
    nodes = " ".join(
        f"m{after} = MatMul({before}, unit)  {after} = Add(m{after}, one)"
        for before, after in itertools.pairwise(names)
    )
    head = f"one = Constant <value = float {{1.0}}> ()  shape = Constant <value_ints = [{SIZE}, {SIZE}]> () "
    unit = "zeros = ConstantOfShape(shape)  unit = EyeLike(zeros) "
    return f"g (float[n,{SIZE}] {source}) => (float[n,{SIZE}] {target}) {{ {head}{unit}{nodes} }}"


def feeds(number: int) -> dict[str, np.ndarray]:
    return {"x": np.full((64, SIZE), number, np.float32)}


def assert_right(number: int, outputs: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(outputs["y"], np.full((64, SIZE), number + 18, np.float32))
