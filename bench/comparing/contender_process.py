"""One contender in a process of its own, asked in turn with the others.

    {"do": "load", "system": "_plan", "model": "plan/", "feeds": "feeds.pb", ...}  ->  {"told": "", "call_s": 0.01}
    {"do": "answer", "to": "answers.pb"}                                           ->  {}
    {"do": "compare", "with": "answers.pb"}                                        ->  a Difference
    {"do": "turn", "calls": 10}                                                    ->  a Turn

A turn's energy is what the counters of the devices that were named at loading say, over its calls.

A turn begins with a call that is not counted: it finds the caches as another contender left them, which no user of one
system ever sees.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil

from trisect.runtime.device import Device
from trisect.runtime.plans.timeline import Event

from ..contenders import Contender, Loading, make
from .asking import Answer, Asked, answer_all
from .energy_meter import LEAST_S, Meter, used_j
from .output_comparison import difference, read_tensors, write_tensors

_LIMIT_S = 300.0
_WARM_CALLS, _WARM_S = 5, 1.0
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Turn:
    """What one turn of one contender gave."""

    calls_s: tuple[float, ...]
    """Each call, from feeds to outputs."""
    stream_hz: float
    """Items a second of a stream."""
    events: tuple[Event, ...]
    """Of the call nearest to the median."""
    peak_bytes: int
    """Resident memory of the process, the most so far."""
    energy_j: float | None
    """Of one of the calls; None where nothing told."""


class Contending(Asked):
    """A contender's process; a context manager."""

    def __init__(self, system: str, name: str) -> None:
        super().__init__("trisect.bench.comparing.contender_process", name)
        self._system = system

    def load(
        self,
        model: Path,
        feeds: Path,
        *,
        threads: int | None,
        shapes: dict[str, int],
        settings: dict[str, Any],
        counted: Sequence[Device] = (),
    ) -> tuple[str, float]:
        """Load and warm up: what the contender tells of itself, and about how long a call takes.

        The energy of later turns is that of the devices `counted`.
        """
        told = self.ask(
            {
                "do": "load", "system": self._system, "model": str(model), "feeds": str(feeds), "threads": threads,
                "shapes": shapes, "settings": settings, "counted": [_described(device) for device in counted],
            },
            limit_s=_LIMIT_S,
        )  # fmt: skip
        return told["told"], told["call_s"]

    def turn(self, calls: int, items: int) -> Turn:
        """Call it so often, and then stream so many items; none = as quick as the calls."""
        given = self.ask({"do": "turn", "calls": calls, "items": items}, limit_s=_LIMIT_S)
        events = tuple(Event(**event) for event in given["events"])
        return Turn(tuple(given["calls_s"]), given["stream_hz"], events, given["peak_bytes"], given["energy_j"])


class Serving:
    """The other end: one contender, and the counters of its devices."""

    def __init__(self) -> None:
        self._contender: Contender | None = None
        self._meter: Meter | None = None

    def answer(self, question: Answer) -> Answer:
        """Answer one question; the first is to load."""
        if self._contender is None:
            return self._load(question)
        if question["do"] == "answer":
            write_tensors(Path(question["to"]), self._contender.run())
            return {}
        if question["do"] == "compare":
            return asdict(difference(self._contender.run(), read_tensors(Path(question["with"]))))
        return asdict(_turn(self._contender, question["calls"], question["items"], self._meter))

    def _load(self, question: Answer) -> Answer:
        contender = make(question["system"])
        options = Loading(question["threads"], question["shapes"], question["settings"])
        told = contender.load(Path(question["model"]), read_tensors(Path(question["feeds"])), options)
        # Described, not looked up: looking devices up loads every engine, into the memory that is measured here too.
        self._meter = Meter.of(Device(**fields) for fields in question["counted"])
        self._contender = contender
        return {"told": told, "call_s": _warm_up(contender)}


def _described(device: Device) -> dict[str, str]:
    """What tells the device's counter."""
    return {name: getattr(device, name) for name in ("id", "kind", "engine", "name", "reality")}


def _warm_up(contender: Contender) -> float:
    begun, calls_s = perf_counter(), []
    for _ in range(_WARM_CALLS):
        calls_s.append(_timed(contender))
        if perf_counter() - begun > _WARM_S:
            break
    return min(calls_s)


def _timed(contender: Contender) -> float:
    begun = perf_counter()
    contender.run()
    return perf_counter() - begun


def _turn(contender: Contender, calls: int, items: int, meter: Meter | None) -> Turn:
    contender.run()
    least_s = LEAST_S if meter is not None else 0.0
    timed: list[tuple[float, list[Event]]] = []
    before, begun = meter.read() if meter is not None else None, perf_counter()
    for _ in range(calls):
        call_s = _timed(contender)
        timed.append((call_s, contender.events()))
    further = 0
    while perf_counter() - begun < least_s:
        contender.run()
        further += 1
    joules = used_j(before, meter.read()) if meter is not None else None
    calls_s = [call_s for call_s, _ in timed]
    middle = statistics.median(calls_s)
    events = min(timed, key=lambda found: abs(found[0] - middle))[1]
    stream_hz = items / contender.stream(items) if items else len(calls_s) / sum(calls_s)
    energy_j = joules / (calls + further) if joules is not None else None
    return Turn(tuple(calls_s), stream_hz, tuple(events), _peak_bytes(), energy_j)


def _peak_bytes() -> int:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not on Linux
        pass
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))


if __name__ == "__main__":
    answer_all(Serving().answer)
