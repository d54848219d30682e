"""Outputs that are not what the plan states are refused with segment, device and tensor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from trisect.runtime.errors import EngineFailed
from trisect.runtime.executors.dispatch.output_checks import check_outputs
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.containers import pack
from trisect.runtime.tensors.tensor_spec import UNKNOWN_RANK, TensorSpec


def segment(dtype: str, shape: tuple[int | str, ...]) -> Segment:
    return Segment(1, "cpu:ort", ("node",), (), (TensorSpec("y", dtype, shape),), "segment-1.onnx")


@pytest.mark.parametrize(
    ("dtype", "shape", "value"),
    [
        ("float32", (2, 3), np.zeros((2, 3), np.float32)),
        ("float32", (2, "n"), np.zeros((2, 9), np.float32)),
        ("float32", UNKNOWN_RANK, np.zeros((1, 2, 3), np.float32)),
        ("int64", (), np.array(1)),
        ("bfloat16", (2,), np.zeros(2, ml_dtypes.bfloat16)),
        ("object", (2,), np.array(["a", "b"], object)),
        ("object", (1,), np.array(["a"])),
        ("seq(float32)", ("?",), pack("seq(float32)", [np.zeros(2, np.float32)])),
        ("optional(float32)", (), pack("optional(float32)", None)),
    ],
)
def test_what_the_plan_states_passes(dtype: str, shape: tuple[int | str, ...], value: np.ndarray) -> None:
    check_outputs(segment(dtype, shape), {"y": value})


@pytest.mark.parametrize(
    ("dtype", "shape", "value", "message"),
    [
        ("float32", (2, 3), np.zeros((3, 2), np.float32), r"'y' as float32\[3,2\], but the plan states float32\[2,3\]"),
        ("float32", (2, "n"), np.zeros(2, np.float32), r"as float32\[2\], but the plan states float32\[2,n\]"),
        ("int64", (2,), np.zeros(2, np.int32), r"as int32\[2\], but the plan states int64\[2\]"),
        ("bool", (2,), np.zeros(2, np.uint8), "uint8"),
        ("object", (2,), np.zeros(2), "float64"),
        ("seq(float32)", ("?",), np.zeros(2, np.float32), "float32"),
    ],
)
def test_anything_else_is_refused(dtype: str, shape: tuple[int | str, ...], value: np.ndarray, message: str) -> None:
    with pytest.raises(EngineFailed, match=message):
        check_outputs(segment(dtype, shape), {"y": value})
    with pytest.raises(EngineFailed, match="no 'y'"):
        check_outputs(segment(dtype, shape), {})


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_session_names_segment_device_and_tensor(diamond, model, executor: str) -> None:
    text = "g (float[n,3] a) => (float[n,2] l) { s = Constant<value_ints=[0]>() e = Constant<value_ints=[2]>() "
    text += "x = Constant<value_ints=[1]>() l = Slice(a, s, e, x) }"
    (Path(diamond.folder) / diamond.segments[1].file).write_bytes(model(text))
    with Session(diamond, executor) as session, pytest.raises(EngineFailed) as failure:
        session.run({"x": np.ones((1, 3), np.float32)})
    assert failure.value.device == diamond.segments[1].device
    assert "segment 1 on" in failure.value.message
    assert "'l' as float32[1,2], but the plan states float32[n,3]" in failure.value.message


def test_a_segment_stated_in_nhwc_returns_nhwc() -> None:
    image = replace(segment("float32", (1, 4, 5, 3)), outputs=(TensorSpec("y", "float32", (1, 4, 5, 3), "NHWC"),))
    check_outputs(image, {"y": np.zeros((1, 4, 5, 3), np.float32)})
    with pytest.raises(EngineFailed):
        check_outputs(image, {"y": np.zeros((1, 3, 4, 5), np.float32)})
