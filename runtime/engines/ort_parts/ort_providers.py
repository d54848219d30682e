"""How engines on ONNX Runtime get at execution providers: what brings them, registration, units, their noise."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime as ort
from onnx import TensorProto, helper

from ...device import Device
from ...errors import EngineFailed, EngineMissing
from ..common.engine_errors import vendor_message

STDOUT, STDERR = 1, 2
_WARNING, _FATAL = 2, 4
_DIVERTING = threading.Lock()


def plugin(package: str, extra: str) -> ModuleType:
    """A package that brings an execution provider.

    Raises
    ------
    EngineMissing
        Where it is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.replace("_", "-")
        raise EngineMissing(f"{name} is not installed", remedy=f"pip install 'trisect[{extra}]'") from error


@cache  # a second registration fails, and has been seen to break sessions of the first
def register(name: str, library: str) -> None:
    """Make a provider's library known to ONNX Runtime, once.

    Raises
    ------
    EngineMissing
        For a library that cannot be loaded: of another version, or whose driver is broken.
    """
    if ep_devices(name):  # the user has done so already
        return
    try:
        with quiet():
            ort.register_execution_provider_library(name, library)
    except Exception as error:
        if "already registered" not in str(error):
            raise EngineMissing(f"{Path(library).name} cannot be loaded: {vendor_message(error)}") from error


def ep_devices(name: str) -> list[Any]:
    """The devices that ONNX Runtime lists for a provider."""
    return [found for found in ort.get_ep_devices() if found.ep_name == name]


def kind_of(ep_device: Any) -> str:
    """``cpu``, ``gpu`` or ``npu``, as the provider itself says."""
    return str(ep_device.device.type.name).lower()


def unit_of(device: Device, units: Sequence[Any]) -> Any:
    """The unit that a device's number stands for.

    Raises
    ------
    EngineFailed
        When it was unplugged or switched off since, or was never on this machine.
    """
    _, _, number = device.id.partition("#")
    if int(number or 0) >= len(units):
        raise EngineFailed(
            f"{device.id} has gone: ONNX Runtime does not list it", remedy="see trisect devices", device=device.id
        )
    return units[int(number or 0)]


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of the default logger, which providers write to while they look for hardware."""
    ort.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNING)


@cache
def tiny_model() -> bytes:
    """One operator that every provider has, to see whether a device works at all."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "tiny", ends[:1], ends[1:])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    return model.SerializeToString()


@contextmanager
def diverted(stream: int, target: int | None) -> Iterator[None]:
    """Send what a library's own code writes to a standard stream elsewhere; None = nowhere.

    Libraries underneath write there from C, past Python's `sys.stdout`; only whole streams of the process can be moved.
    """
    if os.name != "posix":
        yield
        return
    library = ctypes.CDLL(None)
    with _DIVERTING:
        sys.stdout.flush()
        library.fflush(None)
        kept = os.dup(stream)
        aside = os.open(os.devnull, os.O_WRONLY) if target is None else os.dup(target)
        os.dup2(aside, stream)
        os.close(aside)
        try:
            yield
        finally:
            library.fflush(None)
            os.dup2(kept, stream)
            os.close(kept)
