"""The measurements of a machine's devices and of the links between them, with their provenance: plain data.

A profile holds measurements, not conclusions. `trisect.profiles.costmodel.profile_costs` derives costs from them, so
that a better derivation needs no new measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from ..costmodel.op_features import OpClass

SCHEMA = 2
"""Version of the file format; files of a newer version are refused. Version 1 has no contention and no memory."""

Source = Literal["measured", "published", "modelled"]


@dataclass(frozen=True)
class Point:
    """The time of one operator on one device.

    Examples
    --------
    >>> Point("matmul:100x100x100", OpClass.MATMUL, "MatMul", flops=2e6, size_bytes=120_000, time_s=2.0).rate_flops
    1000000.0
    """

    case: str
    """Name of the operator case, with its sizes; unique within a device."""
    op_class: OpClass
    op_type: str
    """The operator; the dominant one where the case has several."""
    flops: float
    size_bytes: int
    """Bytes read and written, weights included."""
    time_s: float
    """Median of one operator, without the overhead of the call."""
    spread: float = 0.0
    """Interquartile range as a share of the median."""

    @property
    def rate_flops(self) -> float:
        """Operations per second."""
        return self.flops / self.time_s


@dataclass(frozen=True)
class MemoryPoint:
    """The growth of a process in which a device loaded and ran a model."""

    case: str
    weights_bytes: int
    """In the model's file."""
    tensors_bytes: int
    """Peak of the tensors that are alive at once during a run."""
    resident_bytes: int
    """Growth of the process's resident memory."""


class WakeupPoint(msgspec.Struct, frozen=True):
    """The time of a minimal call right after another device has computed on the same cores."""

    beside: str
    """Id of the other device."""
    idle_s: float
    """How long the other device computed; all figures are medians."""
    cold_s: float = msgspec.field(name="asleep_s")
    """The first call after that."""
    warm_s: float = msgspec.field(name="awake_s")
    """The same call some calls later."""

    @property
    def extra_s(self) -> float:
        """The wake-up cost."""
        return max(0.0, self.cold_s - self.warm_s)


class DeviceProfile(msgspec.Struct, frozen=True):
    """All measurements of one device."""

    device: str
    """Device id."""
    name: str
    engine_version: str
    call_overhead_s: float
    """Time of a call of a model with one minimal operator."""
    node_overhead_s: float
    """Additional time for each further minimal operator."""
    points: tuple[Point, ...] = ()
    refused: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Operator case -> why the device cannot run it."""
    peak_flops: float | None = None
    """Operations per second of a large matrix product, at the profile's precision: the roofline's ceiling."""
    power_w: float | None = None
    """Power under load; None = not measured."""
    load_s: float | None = None
    """Time to load and compile a model with one minimal operator; None = not measured."""
    node_load_s: float | None = None
    """Additional load time for each further minimal operator."""
    load_bytes: int | None = None
    """Resident memory of this process for a loaded model of minimal operators; None = not measured."""
    memory: tuple[MemoryPoint, ...] = ()
    """Memory of models with known weights and tensors; empty = not measured."""
    wakeups: tuple[WakeupPoint, ...] = msgspec.field(name="wakings", default=())
    """Wake-up costs after other devices have computed on the same cores; empty = not measured."""
    probe_s: float | None = None
    """Seconds of the device's probe (`trisect.profiles.drift.speed_probe`) beside these measurements; None =
    unknown."""
    slowed: float = 1.0
    """Factor by which the device became slower while it was measured; see `trisect.profiles.drift.drift_factor`."""
    date: str = ""
    """When the first of these measurements was made: ISO 8601, UTC; empty = unknown."""


@dataclass(frozen=True)
class LinkPoint:
    """The time of one transfer."""

    size_bytes: int
    time_s: float


@dataclass(frozen=True)
class Link:
    """The cost of making a tensor of one device readable by another."""

    source: str
    """Device id."""
    target: str
    latency_s: float
    """Of the smallest tensor."""
    bandwidth_bytes_per_s: float | None
    """None where the time does not depend on the size: passed by reference."""
    points: tuple[LinkPoint, ...] = ()


@dataclass(frozen=True)
class Contention:
    """The time of a task on one device while another device is busy on the same cores.

    Examples
    --------
    >>> Contention("cpu:a", "cpu:b", "threads", OpClass.MATMUL, alone_s=0.01, together_s=0.02).slowdown
    2.0
    """

    device: str
    """The device that was timed."""
    beside: str
    """The device that was busy meanwhile."""
    executor: str
    """``threads`` (one process) or ``processes`` (pinned to separate cores)."""
    op_class: OpClass
    """Of the task, the same on both devices."""
    alone_s: float
    """With all cores."""
    together_s: float
    spread: float = 0.0
    """Interquartile range of `together_s` as a share of it."""
    date: str = ""
    """ISO 8601, UTC."""

    @property
    def slowdown(self) -> float:
        """Factor by which the device is slower; at least 1, because a speed-up is measurement noise."""
        return max(1.0, self.together_s / self.alone_s)


@dataclass(frozen=True)
class Provenance:
    """Where and when the figures of a profile were obtained."""

    source: Source
    host: str
    cpu: str
    system: str
    date: str
    """ISO 8601, UTC."""
    engines: Mapping[str, str]
    """Engine -> version."""
    load: float | None
    """Load average of the last minute when the measurement began; None = unknown."""
    threads: int | None = None
    """Computing threads of each engine; None = the engine's default."""


@dataclass(frozen=True)
class Profile:
    """The measurements of a machine."""

    provenance: Provenance
    precision: str
    """``float32`` or ``fast``, as in `LoadOptions`."""
    devices: Mapping[str, DeviceProfile]
    links: tuple[Link, ...] = ()
    read_bandwidth_bytes_per_s: float | None = None
    """Read bandwidth of the host's memory, with all cores."""
    contention: tuple[Contention, ...] = ()
    """Of devices that compute on the same cores; empty = not measured."""
    schema: int = SCHEMA
