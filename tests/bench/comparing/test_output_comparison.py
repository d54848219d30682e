"""Tensors between processes, and how answers are compared."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from trisect.bench.comparing.output_comparison import output_difference, read_tensors, write_tensors
from trisect.runtime.tensors.containers import pack


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(3, np.int64),
        np.zeros((0, 4), np.float16),
        np.array([True, False]),
        np.array([1.5, -2.25], ml_dtypes.bfloat16),
        np.array([["a", "ö"], ["", "c"]], dtype=object),
        np.array([1 + 2j], np.complex64),
    ],
    ids=lambda array: str(array.dtype),
)
def test_tensors_come_back_as_they_were(array: np.ndarray, tmp_path: Path) -> None:
    write_tensors(tmp_path / "t", {"a name": array})
    (result,) = read_tensors(tmp_path / "t").values()
    assert result.dtype == array.dtype
    assert result.shape == array.shape
    assert result.tolist() == array.tolist()


def test_difference_is_the_largest_of_all_outputs() -> None:
    wanted = {"a": np.array([1.0, 2.0]), "b": np.array([100.0])}
    result = output_difference({"a": np.array([1.0, 2.0005]), "b": np.array([100.05])}, wanted)
    assert result.max_abs == pytest.approx(0.05)
    assert result.max_rel == pytest.approx(0.0005)
    assert result.ok
    assert not output_difference({"a": np.array([1.0, 2.1]), "b": np.array([100.0])}, wanted).ok


@pytest.mark.parametrize(
    "got",
    [
        {},
        {"a": np.array([1.0, 2.0, 3.0])},
        {"a": np.array([1.0, np.nan])},
        {"a": np.array([1.0, np.inf])},
    ],
)
def test_what_cannot_be_compared_is_infinitely_far(got: dict[str, np.ndarray]) -> None:
    result = output_difference(got, {"a": np.array([1.0, 2.0])})
    assert not result.ok
    assert result.max_abs == np.inf


def test_equal_oddities_are_equal() -> None:
    odd = {"a": np.array([np.nan, np.inf, -np.inf]), "s": np.array(["x"], object), "e": np.zeros(0)}
    assert output_difference(odd, odd).ok
    assert not output_difference(odd | {"s": np.array(["y"], object)}, odd).ok


def test_nothing_is_not_like_little() -> None:
    little = {"a": np.array([1e-5, -2e-5])}
    assert not output_difference({"a": np.zeros(2)}, little).ok
    assert output_difference({"a": np.array([1.01e-5, -2e-5])}, little).ok


def test_containers_are_compared_as_any_system_returns_them(tmp_path: Path) -> None:
    parts = [np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)]
    wanted = {
        "list": parts,
        "empty": [],
        "map": {"a": 0.5, "b": 0.25},
        "none": None,
        "maps": [{1: 0.5}],
        "n": np.ones(2),
    }
    write_tensors(tmp_path / "t", wanted)
    reference = read_tensors(tmp_path / "t")
    packed = {
        "list": pack("seq(float32)", parts), "empty": pack("seq(float32)", []), "map": pack("map", wanted["map"]),
        "none": pack("optional(float32)", None), "maps": pack("seq(map(int64,float32))", wanted["maps"]),
        "n": np.ones(2),
    }  # fmt: skip
    for outputs in (wanted, packed):
        assert output_difference(outputs, reference).ok
    assert not output_difference(packed | {"list": pack("seq(float32)", parts[:1])}, reference).ok
    assert not output_difference(packed | {"map": pack("map", {"a": 0.5, "b": 0.75})}, reference).ok
    assert not output_difference(packed | {"none": np.zeros(1)}, reference).ok


@pytest.mark.parametrize("wrong", [np.array([3, 5]), np.array([3, 4], np.int32), np.array([3.0, 4.0])])
def test_integers_are_equal_or_wrong(wrong: np.ndarray) -> None:
    assert not output_difference({"y": wrong * 1_000_000}, {"y": np.array([3, 4]) * 1_000_000}).ok
    assert not output_difference({"y": np.array([10**9 + 1])}, {"y": np.array([10**9])}).ok
