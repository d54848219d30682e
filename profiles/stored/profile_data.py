"""What was measured of a machine's devices and of the links between them, with where and when: plain data.

A profile holds the measurements themselves, not conclusions: how a cost is read out of them is `ProfileCosts`' business
and may change without measuring again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..costmodel.op_features import OpClass

SCHEMA = 2
"""Version of the file format; a newer one is refused, not guessed at. Version 1 lacks contention and memory."""

Source = Literal["measured", "published", "modelled"]


@dataclass(frozen=True)
class Point:
    """One operator's time on one device.

    Examples
    --------
    >>> Point("matmul:100x100x100", OpClass.MATMUL, "MatMul", flops=2e6, size_bytes=120_000, time_s=2.0).rate_flops
    1000000.0
    """

    case: str
    """What was run, with its sizes; the key by which a measurement is found again."""
    op_class: OpClass
    op_type: str
    """The operator; that of most of the work where the case has several."""
    flops: float
    size_bytes: int
    """Read and written, weights included."""
    time_s: float
    """Median of one operator, without the overhead of the call."""
    spread: float = 0.0
    """Interquartile range as a share of the median: how far to trust it."""

    @property
    def rate_flops(self) -> float:
        """Operations a second."""
        return self.flops / self.time_s


@dataclass(frozen=True)
class MemoryPoint:
    """What a process grew by when a device loaded and ran a model."""

    case: str
    weights_bytes: int
    """In the model's file."""
    tensors_bytes: int
    """That have to lie there at once while it runs."""
    resident_bytes: int
    """Growth of the whole process's resident memory."""


@dataclass(frozen=True)
class Waking:
    """What a tiny call takes right after another device has computed on the same cores."""

    beside: str
    """Id of the other device."""
    idle_s: float
    """How long that one computed."""
    asleep_s: float
    """The first call behind that; a median, as all."""
    awake_s: float
    """The same call once more, some calls later."""

    @property
    def more_s(self) -> float:
        """What waking takes."""
        return max(0.0, self.asleep_s - self.awake_s)


@dataclass(frozen=True)
class DeviceProfile:
    """All that was measured on one device."""

    device: str
    """Its id."""
    name: str
    engine_version: str
    call_overhead_s: float
    """Of running a model of one tiny operator once."""
    node_overhead_s: float
    """What each further tiny operator in a model adds."""
    points: tuple[Point, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    """Case -> why the device could not run it."""
    peak_flops: float | None = None
    """Operations a second of a large matrix product: the device's roof, at the profile's precision."""
    power_w: float | None = None
    """Drawn while it works; None = not measured."""
    load_s: float | None = None
    """To load and compile a model of one tiny operator; None = not measured."""
    node_load_s: float | None = None
    """What each further tiny operator adds to that."""
    load_bytes: int | None = None
    """Resident memory of this process that a loaded model of tiny operators takes; None = not measured."""
    memory: tuple[MemoryPoint, ...] = ()
    """What models of known weights and tensors take; empty = not measured."""
    wakings: tuple[Waking, ...] = ()
    """What a call takes behind others on the same cores; empty = not measured."""


@dataclass(frozen=True)
class LinkPoint:
    """One transfer."""

    size_bytes: int
    time_s: float


@dataclass(frozen=True)
class Link:
    """What it takes until a tensor of one device can be read by another."""

    source: str
    """Device id."""
    target: str
    latency_s: float
    """Of the smallest tensor."""
    bandwidth_bytes_per_s: float | None
    """None where the time does not grow with the size: handed over by reference."""
    points: tuple[LinkPoint, ...] = ()


@dataclass(frozen=True)
class Contention:
    """What one device took at a piece of work while another was at work on the same cores.

    Examples
    --------
    >>> Contention("cpu:a", "cpu:b", "threads", OpClass.MATMUL, alone_s=0.01, together_s=0.02).slowdown
    2.0
    """

    device: str
    """Whose work was timed."""
    beside: str
    """Which was kept at work all the while."""
    executor: str
    """How both were run: ``threads`` of one process, or pinned ``processes``."""
    op_class: OpClass
    """Of the work of both."""
    alone_s: float
    """Median, with all cores."""
    together_s: float
    spread: float = 0.0
    """Interquartile range of the latter as a share of it."""
    date: str = ""
    """ISO 8601, UTC."""

    @property
    def slowdown(self) -> float:
        """How many times as long it takes; a device is not made quicker by another, whatever was measured."""
        return max(1.0, self.together_s / self.alone_s)


@dataclass(frozen=True)
class Provenance:
    """Where the figures come from."""

    source: Source
    host: str
    cpu: str
    system: str
    date: str
    """ISO 8601, UTC."""
    engines: Mapping[str, str]
    """Engine -> version."""
    load: float | None
    """Processes that wanted the processor before measuring began, on average over a minute; None where not told."""
    threads: int | None = None
    """Computing threads of each engine; None = the engine's default."""


@dataclass(frozen=True)
class Profile:
    """Costs of a machine's devices, as measured."""

    provenance: Provenance
    precision: str
    """``float32`` or ``fast``, as in `LoadOptions`."""
    devices: Mapping[str, DeviceProfile]
    links: tuple[Link, ...] = ()
    read_bandwidth_bytes_per_s: float | None = None
    """Of the host's memory, all cores reading."""
    contention: tuple[Contention, ...] = ()
    """Of devices that compute on the same cores; empty where nobody measured it."""
    schema: int = SCHEMA
