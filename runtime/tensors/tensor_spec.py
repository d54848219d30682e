"""Describes a tensor that crosses a model's boundary: name, dtype, shape and layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Arrays = Mapping[str, np.ndarray]
"""Tensors by name."""

Layout = Literal["NCHW", "NHWC"]

UNKNOWN_RANK: tuple[int | str, ...] = ("...",)
"""Shape of a tensor whose number of dimensions the model leaves open."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype, shape and layout of a model's input or output."""

    name: str
    dtype: str
    """numpy's name (``float32``, ``int64``, ``bfloat16``); ``object`` for strings."""
    shape: tuple[int | str, ...]
    """A symbolic dimension is its name, an unknown one ``"?"``; `UNKNOWN_RANK` where even the rank is unknown."""
    layout: Layout = "NCHW"
    """``NCHW``: axes in the model's order. ``NHWC``: an image that crosses a segment boundary with channels last."""
