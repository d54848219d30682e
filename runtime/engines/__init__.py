"""Finds the engines of this machine and loads models on them.

An engine is the one class with the methods of `Engine` in a module of this package, or such a class under the entry
point group ``trisect.engines`` of an installed package. An engine whose vendor package is missing or whose driver is
broken is unavailable, with the reason (`unavailable`), never an error.
"""

from __future__ import annotations

import functools
import importlib
import logging
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from ..device import Device, select
from ..errors import EngineMissing, TrisectError, UnknownDevice
from .base import Engine, EngineCapabilities, LoadOptions, Module
from .common.decoder_support import NO_DECODERS, DecoderSupport

__all__ = [
    "capabilities",
    "decoder_support",
    "discover",
    "engine_for",
    "find_devices",
    "find_hardware",
    "is_compiled",
    "keeps_channels_last",
    "load",
    "rescan",
    "unavailable",
]

GROUP = "trisect.engines"
_ENGINE_MEMBERS = ("name", "package", "devices", "load")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Inventory:
    engines: dict[str, Engine]
    devices: tuple[Device, ...]
    named_devices: tuple[Device, ...]
    unavailable: dict[str, str]


def discover() -> list[Device]:
    """Return all devices that the installed engines list, in a fixed order.

    Examples
    --------
    >>> "cpu:ort" in [device.id for device in discover()]
    True
    """
    return list(_inventory().devices)


def find_devices(selector: str | Iterable[str]) -> list[Device]:
    """Select devices of this machine; see `trisect.runtime.device.select`.

    Devices that are used only by name (``cpu:reference``) are found where their whole id is given.

    Raises
    ------
    UnknownDevice
        With the most similar id and the list of available devices.
    EngineMissing
        For a device of an engine that cannot be used here, with the reason and what to install.
    """
    texts = [selector] if isinstance(selector, str) else list(selector)
    names = {name.strip() for text in texts for name in text.split(",")}
    available = [*discover(), *(device for device in _inventory().named_devices if device.id in names)]
    try:
        return select(texts, available)
    except UnknownDevice as error:
        engines = {name.partition(":")[2].partition("#")[0] for name in names}
        for engine, reason in unavailable().items():
            if engine in engines:
                raise EngineMissing(f"the engine {engine!r} cannot be used here: {reason}") from error
        raise


def find_hardware(selector: str | Iterable[str]) -> list[Device]:
    """Select devices as `find_devices` does, but for ``auto`` skip simulators and software drivers.

    Simulators are slow, and what is measured on them holds for no hardware. ``auto`` selects them only on a machine
    that has nothing else.
    """
    if selector != "auto":
        return find_devices(selector)
    everything = discover()
    return [device for device in everything if device.is_real] or everything


def rescan() -> None:
    """Clear the cached lists of engines and devices, so that the next call finds what was added or removed."""
    _inventory.cache_clear()


def unavailable() -> dict[str, str]:
    """Return the engines that cannot be used here: name -> reason and remedy, in one line."""
    return dict(_inventory().unavailable)


def engine_for(device: Device) -> Engine:
    """Return the engine that drives a device.

    Raises
    ------
    EngineMissing
        When it is not installed here, as for a plan made on another machine.
    """
    inventory = _inventory()
    if device.engine not in inventory.engines:
        reason = inventory.unavailable.get(device.engine, "there is no engine of that name")
        raise EngineMissing(f"device {device.id} needs the engine {device.engine!r}: {reason}")
    return inventory.engines[device.engine]


def capabilities(device: Device) -> EngineCapabilities:
    """Return what a device's engine states that it can do; nothing for an engine that is not installed here.

    Examples
    --------
    >>> capabilities(find_devices("cpu:ort")[0]).own_memory
    False
    """
    stated = getattr(_inventory().engines.get(device.engine), "capabilities", None)
    return stated if isinstance(stated, EngineCapabilities) else EngineCapabilities()


def decoder_support(device: Device) -> DecoderSupport:
    """Return how a device can run language models, as its engine states it.

    An engine that states nothing can run graphs whose KV cache grows with each run, which copies all of it; a device
    that takes fixed shapes only runs static graphs.

    Examples
    --------
    >>> decoder_support(find_devices("cpu:ort")[0]).modes
    ('in-place', 'growing')
    """
    engine = _inventory().engines.get(device.engine)
    if engine is None:
        return NO_DECODERS
    state = getattr(engine, "decoder_support", None)
    if state is not None:
        support: DecoderSupport = state(device)
        # Whatever its engine can on other devices.
        return replace(support, modes=("static",)) if device.limits.static_shapes and support.modes else support
    if not capabilities(device).computes:
        return DecoderSupport(modes=(), reason="computes nothing")
    return DecoderSupport(("static",)) if device.limits.static_shapes else DecoderSupport()


def computes_in_half(device: Device) -> bool:
    """Return whether a device computes float32 in float16, whatever precision is asked for."""
    return device.kind in capabilities(device).half_precision_kinds


def is_compiled(model: Path, device: Device, options: LoadOptions) -> bool | None:
    """Return whether a device's engine has stored this model compiled; None where it stores nothing.

    Examples
    --------
    >>> is_compiled(Path("model.onnx"), find_devices("cpu:ort")[0], LoadOptions())
    """
    ask = getattr(_inventory().engines.get(device.engine), "is_compiled", None)
    return None if ask is None else bool(ask(model, _listed(device), options))


@functools.cache
def keeps_channels_last(device: Device) -> bool:
    """Return whether a device computes convolutions in the layout NHWC; False where its engine does not report it.

    Examples
    --------
    >>> keeps_channels_last(find_devices("cpu:ort")[0])
    False
    """
    if not device.is_real or device.node:
        return False
    ask = getattr(_inventory().engines.get(device.engine), "keeps_channels_last", None)
    return ask is not None and bool(ask(device))


def load(model: Path | bytes, device: Device, options: LoadOptions | None = None) -> Module:
    """Load an ONNX file (or its bytes) on a device.

    Raises
    ------
    EngineMissing
        When the device's engine is not installed, or the device belongs to a published machine.
    UnknownDevice
        When the engine does not list this device: a plan may name anything.
    EngineFailed
        With the engine's reason in one line.
    """
    if device.reality == "published":
        raise EngineMissing(
            f"{device.id} ({device.name}) is known from publications only, nothing can be run on it",
            remedy="make a plan for this machine's devices",
        )
    return engine_for(device).load(model, _listed(device), options or LoadOptions())


def _listed(device: Device) -> Device:
    """Return a device as its engine lists it here: a plan could name another kind, reality or native device.

    Raises
    ------
    UnknownDevice
    """
    inventory = _inventory()
    known = {listed.id: listed for listed in (*inventory.devices, *inventory.named_devices)}
    on_request = getattr(inventory.engines.get(device.engine), "device_on_request", None)
    listed = known.get(device.id) or (on_request(device) if on_request is not None else None)
    if listed is None:
        raise UnknownDevice(
            f"the plan was made for {device.id} ({device.name}), which this machine does not have",
            remedy=f"split the model again for {', '.join(one.id for one in inventory.devices)}",
        )
    if _identity(listed) != _identity(device):
        raise UnknownDevice(
            f"{device.id} is {_identity(listed)} on this machine, not {_identity(device)}",
            remedy="split the model again for the devices of this machine",
        )
    return listed


def _identity(device: Device) -> str:
    return f"{device.kind} {device.native!r} of the engine {device.engine!r} ({device.reality})"


@functools.cache
def _inventory() -> _Inventory:
    engines: dict[str, Engine] = {}
    devices: dict[str, Device] = {}
    named: list[Device] = []
    missing: dict[str, str] = {}
    for name, load_class in _engine_classes():
        try:
            engine = load_class()()
            listed = engine.devices()
            named += getattr(engine, "named_devices", list)()
        except ImportError as error:
            if isinstance(error.__cause__, KeyboardInterrupt | SystemExit):  # a signal while native code was imported
                raise error.__cause__ from None
            package = (error.name or name).partition(".")[0].replace("_", "-")
            missing[name] = f"{package} cannot be imported ({error}): pip install {package}"
        except TrisectError as error:
            missing[name] = str(error)
        except Exception as error:  # a broken driver may raise anything, and must not disable the other engines
            log.debug("engine %s is unavailable", name, exc_info=True)
            missing[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        else:
            engines[engine.name] = engine
            devices.update((device.id, device) for device in listed)
    return _Inventory(engines, tuple(devices.values()), tuple(named), missing)


def _engine_classes() -> Iterator[tuple[str, Callable[[], type[Engine]]]]:
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        if module.name != "base" and not module.ispkg:
            yield module.name, functools.partial(_engine_class, module.name)
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        yield point.name, functools.partial(cast("Callable[[], type[Engine]]", point.load))


def _engine_class(module_name: str) -> type[Engine]:
    """Return the one engine class that a module of this package defines."""
    module = importlib.import_module(f".{module_name}", __package__)
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and all(hasattr(value, member) for member in _ENGINE_MEMBERS)
    ]
    if len(classes) != 1:
        raise EngineMissing(f"{module.__name__} defines {len(classes)} engine classes, expected one")
    return cast("type[Engine]", classes[0])
