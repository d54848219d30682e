"""Finds the engines of this machine and loads models on them.

An engine is a module in this folder with a class called ``Engine``, or such a class under the entry point group
``trisect.engines`` of any installed package. One whose vendor package is missing or whose driver is broken is absent,
with a note (`absent`), never an error.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from ..device import Device, select
from ..errors import EngineMissing, TrisectError, UnknownDevice
from .base import Engine, LoadOptions, Module

__all__ = ["absent", "discover", "engine_for", "find", "find_to_use", "has_own_memory", "keeps_channels_last", "load"]

GROUP = "trisect.engines"
REFERENCE = "cpu:reference"
"""ONNX's reference evaluator: used where it is named, in no list of devices to choose from."""


@dataclass(frozen=True)
class _Survey:
    engines: dict[str, Engine]
    devices: tuple[Device, ...]
    absent: dict[str, str]


def discover() -> list[Device]:
    """All devices that the engines installed here list themselves, in a fixed order.

    Examples
    --------
    >>> "cpu:ort" in [device.id for device in discover()]
    True
    """
    return list(_survey().devices)


def find(wanted: str | Iterable[str], available: Iterable[Device] | None = None) -> list[Device]:
    """Pick devices of this machine; see `trisect.runtime.device.select`.

    Parameters
    ----------
    wanted : str or iterable of str
    available : iterable of Device, optional
        What to pick from; all that there are when left out, and ``cpu:reference`` where it is named.

    Raises
    ------
    UnknownDevice
        With the nearest name and the list of those there are.
    EngineMissing
        For a device of an engine that cannot be used here, with the reason and what to install.
    """
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    if available is None:
        is_named = any(name.strip() == REFERENCE for text in wanted for name in text.split(","))
        available = [*discover(), *([_reference()] if is_named else [])]
    try:
        return select(wanted, available)
    except UnknownDevice as error:
        engines = {name.strip().partition(":")[2].partition("#")[0] for text in wanted for name in text.split(",")}
        for engine, why in absent().items():
            if engine in engines:
                raise EngineMissing(f"the engine {engine!r} cannot be used here: {why}") from error
        raise


def find_to_use(wanted: str | Iterable[str]) -> list[Device]:
    """As `find`, but ``auto`` is the machine's hardware: simulators and software drivers are used where they are named.

    They are slow, and what is measured on them says nothing of any hardware. A machine that has nothing else uses them.
    """
    if wanted != "auto":
        return find(wanted)
    everything = discover()
    return [device for device in everything if device.is_real] or everything


def look_again() -> None:
    """Forget which engines and devices there were: the next question finds what has come and gone since."""
    _survey.cache_clear()


def absent() -> dict[str, str]:
    """Engines that cannot be used here: name -> reason and remedy, in one line."""
    return dict(_survey().absent)


def engine_for(device: Device) -> Engine:
    """The engine that drives a device.

    Raises
    ------
    EngineMissing
        When it is not installed here, as with a plan that was made on another machine.
    """
    survey = _survey()
    if device.engine not in survey.engines:
        why = survey.absent.get(device.engine, "trisect knows no engine of that name")
        raise EngineMissing(f"device {device.id} needs the engine {device.engine!r}: {why}")
    return survey.engines[device.engine]


def has_own_memory(device: Device) -> bool:
    """Whether tensors are copied to a device and from it, and can stay there; what nobody here can tell counts as no.

    Examples
    --------
    >>> has_own_memory(find("cpu:ort")[0])
    False
    """
    return getattr(_survey().engines.get(device.engine), "own_memory", False)


@functools.cache
def keeps_channels_last(device: Device) -> bool:
    """Whether a device computes convolutions on images with their channels last; False where its engine cannot tell.

    Examples
    --------
    >>> keeps_channels_last(find("cpu:ort")[0])
    False
    """
    if not device.is_real or device.node:
        return False
    asked = getattr(_survey().engines.get(device.engine), "keeps_channels_last", None)
    return asked is not None and bool(asked(device))


def load(model: Path | bytes, device: Device, options: LoadOptions | None = None) -> Module:
    """Load an ONNX file (or its bytes) on a device.

    Raises
    ------
    EngineMissing
        When the device's engine is not installed, or the device is of a published machine that is not at hand.
    EngineFailed
        With the engine's reason in one line.
    """
    if device.reality == "published":
        raise EngineMissing(
            f"{device.id} ({device.name}) is known from publications only, nothing can be run on it",
            remedy="make a plan for this machine's devices",
        )
    return engine_for(device).load(model, device, options or LoadOptions())


@functools.cache
def _survey() -> _Survey:
    engines: dict[str, Engine] = {}
    devices: dict[str, Device] = {}
    absent: dict[str, str] = {}
    for name, factory in _factories():
        try:
            engine = factory()()
            found = engine.devices()
        except ImportError as error:
            package = (error.name or name).partition(".")[0].replace("_", "-")
            absent[name] = f"{package} cannot be imported ({error}): pip install {package}"
        except TrisectError as error:
            absent[name] = str(error)
        except Exception as error:  # a broken driver may raise anything, and must not take the other engines along
            absent[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        else:
            engines[engine.name] = engine
            devices.update((device.id, device) for device in found)
    return _Survey(engines, tuple(devices.values()), absent)


def _factories() -> Iterator[tuple[str, Callable[[], type[Engine]]]]:
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        if module.name != "base" and not module.ispkg:
            yield module.name, functools.partial(_own, module.name)
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        yield point.name, functools.partial(cast("Callable[[], type[Engine]]", point.load))


def _reference() -> Device:
    from .reference import reference_device

    return reference_device()


def _own(name: str) -> type[Engine]:
    return cast("type[Engine]", importlib.import_module(f".{name}", __package__).Engine)
