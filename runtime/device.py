"""Describes devices, and selects them by the names that a user gives.

A `Device` is one execution unit driven by one engine. Its id is ``kind:engine`` (``cpu:ort``, ``npu:qnn``), with
``#index`` after it for the second and later units of a kind. Devices are not derived from hardware names: the engines
list them (`trisect.runtime.engines.discover`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from .errors import UnknownDevice

Kind = Literal["cpu", "gpu", "npu"]
Reality = Literal["hardware", "software", "simulated", "published"]


@dataclass(frozen=True)
class Limits:
    """Restrictions of a device that hold for every model."""

    dtypes: tuple[str, ...] = ()
    """Names of the supported dtypes; empty = not restricted."""
    static_shapes: bool = False
    """True where every dimension must be a number before compiling."""
    maximum_rank: int | None = None
    """None = not restricted."""


@dataclass(frozen=True)
class Device:
    """One execution unit and the engine that drives it.

    Examples
    --------
    >>> Device(id="cpu:ort", kind="cpu", engine="ort", name="AMD EPYC").is_real
    True
    """

    id: str
    kind: Kind
    engine: str
    name: str
    """Name of the hardware, as it reports it."""
    reality: Reality = "hardware"
    memory_bytes: int | None = None
    engine_version: str = ""
    native: str = ""
    """The engine's own name for the device (``CPU``, ``GPU.1``, ``QNNExecutionProvider``)."""
    limits: Limits = field(default_factory=Limits)

    @property
    def is_real(self) -> bool:
        """Return whether it is hardware, not software, simulated or published."""
        return self.reality == "hardware"

    @property
    def node(self) -> str:
        """Name of its cluster node (``edge1`` of ``edge1/npu:qnn``); empty outside a cluster."""
        return self.id.rpartition("/")[0]

    @property
    def local_id(self) -> str:
        """Its id on its own machine."""
        return self.id.rpartition("/")[2]


def select(selector: str | Iterable[str], available: Iterable[Device]) -> list[Device]:
    """Select devices by id, kind or ``auto``.

    Parameters
    ----------
    selector : str or iterable of str
        ``"auto"`` for all, or ids and kinds, comma-separated or one by one. Order is preserved, duplicates are removed.
        In a cluster also nodes (``edge1``), kinds of a node (``edge1/npu``), and ids on any node (``npu:qnn``).
    available : iterable of Device
        Devices to select from.

    Raises
    ------
    UnknownDevice
        With the most similar id and the list of available devices.

    Examples
    --------
    >>> here = [Device("cpu:ort", "cpu", "ort", "x"), Device("cpu:openvino", "cpu", "openvino", "x")]
    >>> [d.id for d in select("cpu:openvino,cpu", here)]
    ['cpu:openvino', 'cpu:ort']
    """
    everything = list(available)
    texts = [selector] if isinstance(selector, str) else selector
    names = [name.strip() for text in texts for name in text.split(",")]
    chosen: dict[str, Device] = {}
    for name in filter(None, names):
        matching = [d for d in everything if name == "auto" or name in _names(d)]
        if not matching:
            ids = [d.id for d in everything]
            near = difflib.get_close_matches(name, ids, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UnknownDevice(f"no device {name!r} here", remedy=f"{hint}there are: {', '.join(ids) or 'none'}")
        chosen.update((d.id, d) for d in matching)
    if not chosen:
        raise UnknownDevice("no device named", remedy="give ids such as cpu:ort, or auto")
    return list(chosen.values())


def _names(device: Device) -> set[str]:
    """Return the names by which a user can select a device, alone or with others."""
    names = {device.id, device.kind}
    return names | {device.node, f"{device.node}/{device.kind}", device.local_id} if device.node else names
