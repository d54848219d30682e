"""Describes a tensor that crosses a model's boundary: name, dtype, shape and layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Arrays = Mapping[str, np.ndarray]
"""Tensors by name."""

UNKNOWN_RANK: tuple[int | str, ...] = ("...",)
"""Shape of a tensor whose number of dimensions the model leaves open."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of a model's input or output.

    ``dtype`` is numpy's name (``float32``, ``int64``, ``bfloat16``, ``object`` for strings); a symbolic dimension is
    its name, an unknown one ``"?"``; where even the rank is unknown the shape is `UNKNOWN_RANK`.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
