"""Execution providers of ONNX Runtime: plugin packages, registration, hardware units, unwanted output."""

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
_REDIRECTION = threading.Lock()


def plugin(package: str, extra: str) -> ModuleType:
    """Import a package that contains an execution provider.

    Raises
    ------
    EngineMissing
        Where it is not installed; names the extra that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.replace("_", "-")
        raise EngineMissing(f"{name} is not installed", remedy=f"pip install 'trisect[{extra}]'") from error


@cache  # a second registration fails, and was observed to break sessions of the first
def register(name: str, library: str) -> None:
    """Register a provider's library with ONNX Runtime, once.

    Raises
    ------
    EngineMissing
        For a library that cannot be loaded: a version mismatch, or a broken driver.
    """
    if ep_devices(name):  # the user has registered it
        return
    try:
        with quiet():
            ort.register_execution_provider_library(name, library)
    except Exception as error:
        if "already registered" not in str(error):
            raise EngineMissing(f"{Path(library).name} cannot be loaded: {vendor_message(error)}") from error


def ep_devices(name: str) -> list[Any]:
    """Return the hardware units that ONNX Runtime lists for a provider."""
    return [unit for unit in ort.get_ep_devices() if unit.ep_name == name]


def kind_of(ep_device: Any) -> str:
    """Return ``cpu``, ``gpu`` or ``npu``, as the provider reports."""
    return str(ep_device.device.type.name).lower()


def unit_of(device: Device, units: Sequence[Any]) -> Any:
    """Return the unit that a device's index selects.

    Raises
    ------
    EngineFailed
        When it was unplugged or disabled, or is not on this machine.
    """
    _, _, number = device.id.partition("#")
    if int(number or 0) >= len(units):
        raise EngineFailed(
            f"{device.id} is gone: ONNX Runtime does not list it", remedy="see trisect devices", device=device.id
        )
    return units[int(number or 0)]


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the default logger, to which providers write while they search for hardware."""
    ort.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNING)


@cache
def tiny_model() -> bytes:
    """Return a model of one operator that every provider supports, to test whether a device works at all."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "tiny", [x], [y])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    return model.SerializeToString()


@contextmanager
def redirected(stream: int, target: int | None) -> Iterator[None]:
    """Redirect what native code writes to a standard stream of this process; None = discard it.

    Native libraries bypass Python's `sys.stdout`; only the stream of the whole process can be redirected.
    """
    if os.name != "posix":
        yield
        return
    library = ctypes.CDLL(None)
    with _REDIRECTION:
        sys.stdout.flush()
        library.fflush(None)
        original = os.dup(stream)
        replacement = os.open(os.devnull, os.O_WRONLY) if target is None else os.dup(target)
        os.dup2(replacement, stream)
        os.close(replacement)
        try:
            yield
        finally:
            library.fflush(None)
            os.dup2(original, stream)
            os.close(original)
