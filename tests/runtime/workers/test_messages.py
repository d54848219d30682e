"""Messages between driver and worker arrive as they were sent."""

from __future__ import annotations

import ml_dtypes
import msgspec
import numpy as np
import pytest

from trisect.runtime.device import Device, Limits
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import ErrorRecord, InvalidInput
from trisect.runtime.tensors.conversions import Conversion
from trisect.runtime.workers.messages import (
    Acknowledged,
    InlineValue,
    LoadSegment,
    MapChunk,
    RequestFailed,
    RunFinished,
    RunSegment,
    SharedTensor,
    StoreOutputs,
    UnmapChunks,
    UnplacedTensor,
    decode_reply,
    decode_request,
    deserialise,
    dtype_from_name,
    dtype_name,
    encode,
    is_shareable,
    serialise,
)

SHARED = SharedTensor("float32", (2, 3), 1, 64)
NPU = Device("npu:x", "npu", "x", "An NPU", limits=Limits(static_shapes=True))
REQUESTS = [
    MapChunk(3, 1 << 20, ""),
    UnmapChunks([1, 2]),
    LoadSegment(2, "plan/segment-2.onnx", ("x",), ("y", "z"), NPU, LoadOptions(threads=2, shapes={"batch": 1})),
    RunSegment(2, [SHARED, InlineValue(["l", [["p"], "text"]], (SHARED,))], [SHARED]),
    StoreOutputs([SHARED]),
]
REPLIES = [
    Acknowledged(),
    RunFinished(1.5, 2.5, [SHARED, UnplacedTensor("int64", (3,))], (Conversion("x", 1.5, 1.75, 8),)),
    RequestFailed(ErrorRecord("EngineFailed", "npu:x could not run: no", None, "npu:x", "no")),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_requests_arrive_as_sent(request_):
    assert decode_request(encode(request_)) == request_


@pytest.mark.parametrize("reply", REPLIES)
def test_replies_arrive_as_sent(reply):
    assert decode_reply(encode(reply)) == reply


@pytest.mark.parametrize("data", [b"", b"\xc1", msgspec.msgpack.encode(["unknown", 1]), encode(REPLIES[0])])
def test_other_messages_are_no_requests(data):
    with pytest.raises(msgspec.MsgspecError):
        decode_request(data)


@pytest.mark.parametrize("dtype", [
    np.float32, np.bool_, np.uint64, np.complex64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4,
])  # fmt: skip
def test_dtypes_are_named(dtype):
    assert dtype_from_name(dtype_name(np.dtype(dtype))) == np.dtype(dtype)


@pytest.mark.parametrize(("array", "shareable"), [
    (np.zeros(2), True), (np.array(1.0), True), (np.zeros((0, 3)), False), (np.array(["a"]), False),
    (np.array(["a"], object), False), (np.array([b"a"]), False), (np.zeros(1, ml_dtypes.bfloat16), True),
])  # fmt: skip
def test_arrays_of_numbers_can_be_shared(array, shareable):
    assert is_shareable(array) is shareable


def test_objects_that_onnx_does_not_have_are_refused():
    with pytest.raises(InvalidInput, match="a object cannot be passed to a worker; pass arrays"):
        serialise([object()])


@pytest.mark.parametrize("value", [
    np.array(["a", "", "häß"], dtype=object),
    np.array([[b"raw"]], dtype=object),
    np.zeros((0, 3), np.int64),
    np.array(2.5),
    None,
    [np.ones(2), None, "text", [np.zeros((1, 0))]],
    {1: np.ones(1), "two": 3.5},
])  # fmt: skip
def test_values_without_a_place_in_memory_are_serialised(value):
    def same(a, b) -> bool:
        if isinstance(a, (list, dict)):
            pairs = zip(a, b, strict=True) if isinstance(a, list) else ((a[key], b[key]) for key in a)
            return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in pairs)
        if isinstance(a, np.ndarray):
            return a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()
        return a == b

    assert same(value, deserialise(serialise(value)))
