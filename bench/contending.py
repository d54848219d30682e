"""One contender in a process of its own, asked in turn with the others.

    {"do": "load", "system": "_plan", "model": "plan/", "feeds": "feeds.pb", ...}  ->  {"told": "", "call_s": 0.01}
    {"do": "answer", "to": "answers.pb"}                                           ->  {}
    {"do": "compare", "with": "answers.pb"}                                        ->  a Difference
    {"do": "power", "devices": ["cpu:ort"]}                                        ->  {"power_w": 35.2}
    {"do": "turn", "calls": 10}                                                    ->  a Turn

A turn begins with a call that is not counted: it finds the caches as another contender left them, which no user of one
system ever sees.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil

from trisect.profiles.power import power_w
from trisect.runtime import engines
from trisect.runtime.devices import select
from trisect.runtime.timeline import Event

from .answers import difference, read_tensors, write_tensors
from .asking import Answer, Asked, answer_all
from .contenders import Contender, Loading, make

_LIMIT_S = 300.0
_WARM_CALLS, _WARM_S = 5, 1.0
_POWER_S = 1.0
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


class Contending(Asked):
    """A contender's process; a context manager."""

    def __init__(self, system: str, name: str) -> None:
        super().__init__("trisect.bench.contending", name)
        self._system = system

    def load(
        self, model: Path, feeds: Path, *, threads: int | None, shapes: dict[str, int], settings: dict[str, Any]
    ) -> tuple[str, float]:
        """Load and warm up: what the contender tells of itself, and about how long a call takes."""
        told = self.ask(
            {
                "do": "load", "system": self._system, "model": str(model), "feeds": str(feeds), "threads": threads,
                "shapes": shapes, "settings": settings,
            },
            limit_s=_LIMIT_S,
        )  # fmt: skip
        return told["told"], told["call_s"]

    def turn(self, calls: int, items: int) -> Turn:
        """Call it so often, and then stream so many items; none = as quick as the calls."""
        given = self.ask({"do": "turn", "calls": calls, "items": items}, limit_s=_LIMIT_S)
        events = tuple(Event(**event) for event in given["events"])
        return Turn(tuple(given["calls_s"]), given["stream_hz"], events, given["peak_bytes"])


def main() -> None:
    """Serve one contender until standard input ends."""
    held: list[Contender] = []

    def answer(question: Answer) -> Answer:
        if question["do"] == "load":
            contender = make(question["system"])
            options = Loading(question["threads"], question["shapes"], question["settings"])
            told = contender.load(Path(question["model"]), read_tensors(Path(question["feeds"])), options)
            held.append(contender)
            return {"told": told, "call_s": _warm_up(contender)}
        contender = held[0]
        if question["do"] == "answer":
            write_tensors(Path(question["to"]), contender.run())
            return {}
        if question["do"] == "compare":
            return asdict(difference(contender.run(), read_tensors(Path(question["with"]))))
        if question["do"] == "power":
            return {"power_w": _power_w(contender, question["devices"])}
        return asdict(_turn(contender, question["calls"], question["items"]))

    answer_all(answer)


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


def _turn(contender: Contender, calls: int, items: int) -> Turn:
    contender.run()
    timed: list[tuple[float, list[Event]]] = []
    for _ in range(calls):
        call_s = _timed(contender)
        timed.append((call_s, contender.events()))
    calls_s = [call_s for call_s, _ in timed]
    middle = statistics.median(calls_s)
    events = min(timed, key=lambda found: abs(found[0] - middle))[1]
    stream_hz = items / contender.stream(items) if items else len(calls_s) / sum(calls_s)
    return Turn(tuple(calls_s), stream_hz, tuple(events), _peak_bytes())


def _power_w(contender: Contender, devices: list[str]) -> float | None:
    """Of all devices that it uses together; None where one of them does not tell."""
    used = select(devices, engines.discover())
    # The processor has one counter, however many engines drive it.
    counted = {("cpu" if device.kind == "cpu" else device.id): device for device in used}
    total_w = 0.0
    for device in counted.values():
        drawn_w = power_w(device, contender.run, lasting_s=_POWER_S)
        if drawn_w is None:
            return None
        total_w += drawn_w
    return total_w


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
    main()
