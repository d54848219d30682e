"""Errors say which device failed and why, and survive the way from one process to another."""

from __future__ import annotations

import pytest

from trisect.runtime import errors
from trisect.runtime.engines import find_devices, load
from trisect.runtime.errors import (
    DeviceLost,
    EngineFailed,
    ErrorRecord,
    InvalidInput,
    OutOfMemory,
    TrisectError,
    error_from_record,
    error_record,
    one_line,
)

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TrisectError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_survives_a_record(kind):
    error = kind("no kernel for Foo", remedy="choose another device", reason="Foo")
    if isinstance(error, EngineFailed):
        error.device = "cpu:ort"
    again = error_from_record(error_record(error))
    assert type(again) is kind
    assert str(again) == "no kernel for Foo; choose another device"
    assert vars(again) == vars(error)


def test_other_exceptions_become_errors_of_one_line():
    assert error_record(ValueError("two\n  lines")) == ErrorRecord("EngineFailed", "ValueError: two lines")
    assert error_record(MemoryError()).kind == "OutOfMemory"
    assert isinstance(error_from_record(error_record(MemoryError())), OutOfMemory)


@pytest.mark.parametrize("kind", ["NoSuchError", "one_line", "NamedTuple", "ErrorRecord", ""])
def test_a_record_of_an_unknown_class_is_an_engines_failure(kind):
    error = error_from_record(ErrorRecord(kind, "broken", device="npu:x"))
    assert type(error) is EngineFailed
    assert (error.message, error.device) == ("broken", "npu:x")


def test_another_message_leaves_the_rest():
    error = DeviceLost("the worker is gone", remedy="open it again", device="cpu:ort", reason="SIGSEGV")
    copy = error.with_message("segment 1: the worker is gone")
    assert type(copy) is DeviceLost
    assert str(copy) == "segment 1: the worker is gone; open it again"
    assert (copy.device, copy.reason, copy.remedy) == ("cpu:ort", "SIGSEGV", "open it again")
    assert str(error) == "the worker is gone; open it again"
    assert InvalidInput("x").with_message("y").reason == "x"


def test_one_line_is_never_empty_and_never_long():
    assert one_line(RuntimeError()) == "RuntimeError"
    assert one_line(RuntimeError(" \n"), with_kind=False) == "RuntimeError"
    assert one_line(RuntimeError("a\tb\nc")) == "RuntimeError: a b c"
    assert len(one_line(RuntimeError("x" * 1000), 100)) == 100


@pytest.mark.parametrize("device_id", ["cpu:ort", "cpu:openvino", "cpu:reference"])
def test_an_engine_names_the_device_and_the_cause_apart(model, device_id):
    (device,) = find_devices(device_id)
    with pytest.raises(EngineFailed) as caught:
        load(model("g (float[2] x) => (float[2] y) { y = none.Nonsense(x) }"), device)
    error = caught.value
    assert error.device == device_id
    assert error.message == f"{device_id} cannot load the model: {error.reason}"
    assert "Nonsense" in error.reason
