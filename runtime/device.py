"""What a device is, and how a user names one.

A `Device` is one execution unit driven by one engine. Its id is ``kind:engine`` (``cpu:ort``, ``npu:qnn``), with
``#index`` behind it for the second and later units of one kind. Devices are never made up from a hardware name: they
come out of the engines' own lists (`trisect.runtime.engines.discover`).
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
    """What a device refuses whatever the model is."""

    dtypes: tuple[str, ...] = ()
    """numpy/onnx names of the dtypes it computes in; empty = not restricted."""
    static_shapes: bool = False
    """True where every dimension must be a number before compiling."""
    maximum_rank: int | None = None
    """Highest tensor rank; None = not restricted."""


@dataclass(frozen=True)
class Device:
    """One execution unit: what it is and which engine drives it.

    Examples
    --------
    >>> Device(id="cpu:ort", kind="cpu", engine="ort", name="AMD EPYC").is_real
    True
    """

    id: str
    kind: Kind
    engine: str
    name: str
    """What the hardware calls itself."""
    reality: Reality = "hardware"
    memory_bytes: int | None = None
    engine_version: str = ""
    native: str = ""
    """How the engine itself names the device (``CPU``, ``GPU.1``, ``QNNExecutionProvider``)."""
    limits: Limits = field(default_factory=Limits)

    @property
    def is_real(self) -> bool:
        """True when figures measured on it are figures of hardware."""
        return self.reality == "hardware"

    @property
    def node(self) -> str:
        """Of a cluster, whose device it is (``edge1`` of ``edge1/npu:qnn``); empty where no cluster is meant."""
        return self.id.rpartition("/")[0]

    @property
    def local_id(self) -> str:
        """Its id on the machine that has it."""
        return self.id.rpartition("/")[2]


def select(wanted: str | Iterable[str], available: Iterable[Device]) -> list[Device]:
    """Pick devices by id, kind or ``auto`` from those that there are.

    Parameters
    ----------
    wanted : str or iterable of str
        ``"auto"`` for all, or ids and kinds, comma-separated or one by one. Order is kept, doubles are dropped.
        Of a cluster also nodes (``edge1``), kinds of a node (``edge1/npu``), and ids on whatever node (``npu:qnn``).
    available : iterable of Device

    Raises
    ------
    UnknownDevice
        With the nearest name and the list of those there are.

    Examples
    --------
    >>> here = [Device("cpu:ort", "cpu", "ort", "x"), Device("cpu:openvino", "cpu", "openvino", "x")]
    >>> [d.id for d in select("cpu:openvino,cpu", here)]
    ['cpu:openvino', 'cpu:ort']
    """
    everything = list(available)
    names = [part.strip() for text in ([wanted] if isinstance(wanted, str) else wanted) for part in text.split(",")]
    chosen: dict[str, Device] = {}
    for name in filter(None, names):
        found = [d for d in everything if name == "auto" or name in _names(d)]
        if not found:
            ids = [d.id for d in everything]
            near = difflib.get_close_matches(name, ids, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UnknownDevice(f"no device {name!r} here", remedy=f"{hint}there are: {', '.join(ids) or 'none'}")
        chosen.update((d.id, d) for d in found)
    if not chosen:
        raise UnknownDevice("no device named", remedy="give ids such as cpu:ort, or auto")
    return list(chosen.values())


def _names(device: Device) -> set[str]:
    """What a user may call a device, alone or with others."""
    names = {device.id, device.kind}
    return names | {device.node, f"{device.node}/{device.kind}", device.local_id} if device.node else names
