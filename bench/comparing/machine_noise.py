"""How noisy the machine was during a measurement: load of other processes, and variation of the processor's speed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter

import psutil

_LOOP = 50_000
_BEST_OF = 3


@dataclass(frozen=True)
class MachineNoise:
    """Noise of the machine during a measurement."""

    load_before: float | None
    """Load average of the minute before; None where the system does not report it."""
    others_share: float | None
    """Share of all processor time used by processes outside the measurement, from 0 to 1."""
    stolen_share: float | None
    """Share of CPU steal, on a virtual machine; None where the system does not report it."""
    speed_spread: float | None
    """Largest over smallest time of a fixed loop, timed every round, minus 1: how much the CPU's speed varied."""
    frequency_mhz: tuple[float, float] | None
    """Lowest and highest reported; None where the system does not report it."""

    def describe(self) -> str:
        """Return one line for people.

        Examples
        --------
        >>> MachineNoise(0.1, 0.02, None, 0.05, None).describe()
        'load before 0.1, other processes used 2 % of the CPU, its speed varied by 5 %, frequency not reported'
        """
        parts = [f"load before {self.load_before:.1f}" if self.load_before is not None else "load not reported"]
        if self.others_share is not None:
            parts.append(f"other processes used {self.others_share * 100:.0f} % of the CPU")
        if self.stolen_share:
            parts.append(f"CPU steal {self.stolen_share * 100:.1f} %")
        if self.speed_spread is not None:
            parts.append(f"its speed varied by {self.speed_spread * 100:.0f} %")
        if self.frequency_mhz is None:
            parts.append("frequency not reported")
        else:
            parts.append("frequency {:.0f} to {:.0f} MHz".format(*self.frequency_mhz))
        return ", ".join(parts)


class NoiseMeter:
    """Observes the machine from its creation until `read`, with a sample at each `tick`."""

    def __init__(self) -> None:
        self._load_before = psutil.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._before = psutil.cpu_times()
        self._own_before: dict[int, float] = {os.getpid(): _own_s(os.getpid())}
        self._own_s: dict[int, float] = {}
        self._loops_s: list[float] = []
        self._frequencies: list[float] = []

    def tick(self, own: Iterable[int] = ()) -> None:
        """Sample the machine's speed, and the processor time of the measurement's processes, by their ids."""
        self._loops_s.append(min(_loop_s() for _ in range(_BEST_OF)))
        try:
            frequency = psutil.cpu_freq()
        except (OSError, NotImplementedError):
            frequency = None
        if frequency is not None and frequency.max > 0:  # else it is the nominal frequency
            self._frequencies.append(frequency.current)
        for pid in [os.getpid(), *own]:
            try:
                self._own_s[pid] = _own_s(pid)
            except psutil.Error:  # it has ended: the last sample counts
                continue

    def read(self) -> MachineNoise:
        """Return what was observed."""
        now, before = psutil.cpu_times(), self._before
        total_s = sum(now) - sum(before)
        idle_s = sum(getattr(now, name, 0.0) - getattr(before, name, 0.0) for name in ("idle", "iowait"))
        stolen_s = now.steal - before.steal if hasattr(now, "steal") else None
        own_s = sum(spent - self._own_before.get(pid, 0.0) for pid, spent in self._own_s.items())
        others_s = max(0.0, total_s - idle_s - own_s - (stolen_s or 0.0))
        return MachineNoise(
            self._load_before,
            others_s / total_s if total_s > 0 else None,
            stolen_s / total_s if stolen_s is not None and total_s > 0 else None,
            max(self._loops_s) / min(self._loops_s) - 1 if len(self._loops_s) > 1 else None,
            (min(self._frequencies), max(self._frequencies)) if self._frequencies else None,
        )


def _own_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _loop_s() -> float:
    start_s = perf_counter()
    sum(range(_LOOP))
    return perf_counter() - start_s
