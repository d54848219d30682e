"""Numbers for value trials: large, at the limits of a dtype, beyond 32 bits, infinite; no result overflows."""

from __future__ import annotations

from typing import Any

import numpy as np

from trisect.runtime.tensors.dtypes import bits_of, dtype_of

_WIDE = (2**40 + 1, -5 * 10**9, 3, 1_700_000_000_123, -(2**31) - 1, 2**31, 0, -1, 2**32 + 7, 2**53 + 1)
_WIDE_UNSIGNED = (2**32 - 1, 2**31, 5, 2**31 + 3, 0)
_WIDE_FLOATS = (1e60, -3e100, 1e-60, 16777217.0, 1_700_000_000_123.0, -0.5, 1.0)
SPECIAL = {"+": np.inf, "-": -np.inf, "n": np.nan}
_FACTORS_MAX = 5
_EXACT_BITS = 53
"""Sums, products and powers of integers stay below this many bits: engines may compute them in float64."""


def numbers(dtype: str, shape: tuple[int, ...], label: str, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return plain data, of the kind that a label names: ``ordinary``, ``large``, ``numbers beyond 32 bits``, ..."""
    numpy_dtype = dtype_of(dtype)
    if numpy_dtype.kind == "b":
        return np.asarray(rng.integers(0, 2, shape)).astype(bool)
    if dtype.startswith(("int", "uint")):
        return np.asarray(_integers(dtype, shape, label, kind, rng)).astype(numpy_dtype)
    bits = bits_of(dtype)
    values = np.asarray(rng.standard_normal(shape))
    if numpy_dtype.kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    elif label == "small":
        values = np.asarray(rng.random(shape))
    elif label == "halves":
        values = np.asarray(rng.integers(-9, 10, shape) / 2)
    elif label == "ties":
        values = np.asarray(rng.integers(-1, 2, shape)).astype(float)
    elif label == "large":
        values = values * (1e4 if bits >= 32 else 30 if bits == 16 and dtype == "float16" else 4)
    elif label.startswith("limits") and bits <= 8:
        values = values * 400
    elif label == "numbers beyond 32 bits" and "w" in kind:
        values = _wide(_WIDE_FLOATS if dtype == "float64" else np.array(_WIDE, float), shape, rng)
    elif label == "infinities and NaN":
        choices = [SPECIAL[letter] for letter in kind if letter in SPECIAL]
        if choices and values.size:
            chosen = np.asarray(rng.random(shape) < 0.2)
            chosen.reshape(-1)[rng.integers(values.size)] = True
            values = np.where(chosen, rng.choice(choices, shape), values)
            if "-" in kind and values.ndim > 1:
                values[..., -1, :] = -np.inf  # as in masks
    return np.asarray(values.astype(numpy_dtype))


def _integers(dtype: str, shape: tuple[int, ...], label: str, kind: str, rng: np.random.Generator) -> np.ndarray:
    bits, unsigned = bits_of(dtype), dtype.startswith("u")
    if label == "numbers beyond 32 bits" and "w" in kind:
        choices = _WIDE if not unsigned else _WIDE_UNSIGNED if bits == 32 else tuple(map(abs, _WIDE))
        return _wide(np.array(choices, np.uint64 if unsigned else np.int64), shape, rng)
    if label.startswith("limits") and bits <= 16:
        low, high = (0, (1 << bits) - 1) if unsigned else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        return rng.integers(low, high + 1, shape)
    if label.startswith("limits"):
        # Sums and products of two numbers stay within the bits that they need by their ranges.
        magnitude = 1 << 30 if bits == 32 else (1 << 31) - 1 if label == "limits beyond 32 bits" else 1 << 14
    else:
        magnitude = {"small": 3, "ties": 1, "large": 1000}.get(label, 9)
    magnitude = min(magnitude, (1 << (bits - 1)) - 1)
    return rng.integers(0 if unsigned else -magnitude, magnitude + 1, shape)


def _wide(choices: Any, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Choose from numbers, one of the first two at least: these need more than 32 bits."""
    values = np.asarray(rng.choice(choices, shape))
    if values.size:
        values.reshape(-1)[rng.integers(values.size)] = choices[rng.integers(2)]
    return values


def castable(values: np.ndarray, target: str) -> np.ndarray:
    """Return floats that the target dtype can represent: casting others to integers is undefined."""
    if not target.startswith(("int", "uint")) or values.dtype.kind in "biu":
        return values
    bits = min(bits_of(target), 54)
    low, high = (0, 2**bits - 1) if target.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    finite = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0, posinf=1.0, neginf=-1.0)
    margin = 0.99 if bits > 16 else 1.0
    return np.clip(finite, low * margin, high * margin)


def within_dtype(values: np.ndarray, op_type: str, dtype: str, count: int) -> np.ndarray:
    """Limit integers so that an operator's result does not overflow, which ONNX does not define.

    Parameters
    ----------
    count : int
        Of numbers that it sums or multiplies to one.

    Examples
    --------
    >>> within_dtype(np.array([2**40, -3]), "ReduceSum", "int64", 2**20)
    array([8589934591,         -3])
    """
    bits = min(bits_of(dtype) - dtype.startswith("int"), _EXACT_BITS)
    if op_type in ("ReduceSum", "ReduceL1", "ReduceMean"):
        limit = (1 << bits) // max(count, 1)
    elif op_type in ("ReduceSumSquare", "ReduceL2"):
        limit = int(((1 << bits) // max(count, 1)) ** 0.5)
    elif op_type == "Pow":
        limit = 1 << bits // 3
    elif op_type == "ReduceProd":
        limit = 1 << bits // min(max(count, 1), _FACTORS_MAX)
        if count > _FACTORS_MAX:
            values = values.copy()
            values.reshape(-1)[_FACTORS_MAX:] = 1
    else:
        return values
    limit = max(limit - 1, 1)
    return np.asarray(np.clip(values, 0 if dtype.startswith("u") else -limit, limit))
