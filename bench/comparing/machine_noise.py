"""How quiet the machine was while something was measured: what else ran, and whether the processor kept its speed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter

import psutil

_LOOP = 50_000
_BEST_OF = 3


@dataclass(frozen=True)
class Noise:
    """Of a machine, over a measurement."""

    load_before: float | None
    """Processes that wanted the processor in the minute before; None where the system does not tell."""
    others_share: float | None
    """Part of all processor time that processes outside the measurement took, from 0 to 1."""
    stolen_share: float | None
    """Part that a virtual machine's host kept back; None where the system does not tell."""
    speed_spread: float | None
    """Largest over smallest time of one and the same loop, tried every round, minus 1: what the processor's clock and
    all else that changes its speed did."""
    frequency_mhz: tuple[float, float] | None
    """Lowest and highest that the system told; None where it does not."""

    def describe(self) -> str:
        """In one line.

        Examples
        --------
        >>> Noise(0.1, 0.02, None, 0.05, None).describe()
        'load before 0.1, other processes took 2 % of the processor, its speed varied by 5 %, frequency not told'
        """
        said = [f"load before {self.load_before:.1f}" if self.load_before is not None else "load not told"]
        if self.others_share is not None:
            said.append(f"other processes took {self.others_share * 100:.0f} % of the processor")
        if self.stolen_share:
            said.append(f"the host kept back {self.stolen_share * 100:.1f} %")
        if self.speed_spread is not None:
            said.append(f"its speed varied by {self.speed_spread * 100:.0f} %")
        if self.frequency_mhz is None:
            said.append("frequency not told")
        else:
            said.append("frequency {:.0f} to {:.0f} MHz".format(*self.frequency_mhz))
        return ", ".join(said)


class NoiseMeter:
    """Watches from its making until `read`; `tick` it now and then."""

    def __init__(self) -> None:
        self._load_before = psutil.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._before = psutil.cpu_times()
        self._own_before: dict[int, float] = {os.getpid(): _own_s(os.getpid())}
        self._own_s: dict[int, float] = {}
        self._loops_s: list[float] = []
        self._frequencies: list[float] = []

    def tick(self, own: Iterable[int] = ()) -> None:
        """Look at the machine's speed, and at the processor time of the measurement's processes, by their ids."""
        self._loops_s.append(min(_loop_s() for _ in range(_BEST_OF)))
        try:
            frequency = psutil.cpu_freq()
        except (OSError, NotImplementedError):
            frequency = None
        if frequency is not None and frequency.max > 0:  # else it is a constant that the machine was sold with
            self._frequencies.append(frequency.current)
        for pid in [os.getpid(), *own]:
            try:
                self._own_s[pid] = _own_s(pid)
            except psutil.Error:  # it has ended: what was read last counts
                continue

    def read(self) -> Noise:
        """What was seen."""
        now, before = psutil.cpu_times(), self._before
        total_s = sum(now) - sum(before)
        idle_s = sum(getattr(now, name, 0.0) - getattr(before, name, 0.0) for name in ("idle", "iowait"))
        stolen_s = now.steal - before.steal if hasattr(now, "steal") else None
        own_s = sum(spent - self._own_before.get(pid, 0.0) for pid, spent in self._own_s.items())
        others_s = max(0.0, total_s - idle_s - own_s - (stolen_s or 0.0))
        return Noise(
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
    begun = perf_counter()
    sum(range(_LOOP))
    return perf_counter() - begun
