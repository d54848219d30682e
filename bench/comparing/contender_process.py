"""One contender in a process of its own, measured in turns with the others.

    {"do": "load", "system": "_plan", "model": "plan/", ...}  ->  {"description": "", "call_s": 0.01}
    {"do": "save_outputs", "path": "outputs.pb"}              ->  null
    {"do": "compare_outputs", "reference": "outputs.pb"}      ->  an OutputDifference
    {"do": "turn", "calls": 10, "items": 0}                   ->  a ContenderTurn

A turn's energy is the difference of its devices' counters over the turn, divided by the calls.

A turn begins with a call that is not counted: it finds the caches as another contender left them, which a user of one
system never sees.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import psutil

from trisect.runtime.child_process import ChildProcess
from trisect.runtime.device import Device
from trisect.runtime.plans.timeline import Event

from ..contenders import Contender, ContenderOptions, make_contender
from .energy_meter import TURN_MIN_S, EnergyMeter, used_j
from .output_comparison import OutputDifference, output_difference, read_tensors, write_tensors

_TIME_LIMIT_S = 300.0
_WARM_UP_CALLS, _WARM_UP_S = 5, 1.0
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class ContenderTurn:
    """Measurements of one turn of one contender."""

    calls_s: tuple[float, ...]
    """Each call, from feeds to outputs."""
    stream_hz: float
    """Items per second of a stream."""
    events: tuple[Event, ...]
    """Of the call nearest to the median."""
    peak_bytes: int
    """Peak resident memory of the process so far."""
    energy_j: float | None
    """Of one call; None where it was not measured."""


class ContenderProcess(ChildProcess):
    """A contender's process; a context manager.

    Parameters
    ----------
    system : str
        File name in `trisect.bench.contenders`.
    label : str
        Its name, for messages.
    """

    def __init__(self, system: str, label: str) -> None:
        super().__init__(ContenderHandler, label)
        self._system = system

    def load(
        self,
        model: Path,
        feeds: Path,
        *,
        threads: int | None,
        shapes: Mapping[str, int],
        settings: Mapping[str, Any],
        metered: Sequence[Device] = (),
    ) -> tuple[str, float]:
        """Load and warm up.

        Parameters
        ----------
        model : Path
            Model file, or plan folder.
        feeds : Path
            Inputs, written by `write_tensors`.
        threads : int, optional
            Computing threads; None for the engine's default.
        shapes : mapping of str to int
        settings : mapping of str to Any
        metered : sequence of Device
            Devices whose energy later turns measure.

        Returns
        -------
        str
            The contender's description of how it runs the model.
        float
            Seconds of a call, roughly.
        """
        # Described, not looked up: looking devices up loads every engine, into the memory that is measured here too.
        fields = ("id", "kind", "engine", "name", "reality")
        reply = self.request(
            {
                "do": "load", "system": self._system, "model": str(model), "feeds": str(feeds), "threads": threads,
                "shapes": dict(shapes), "settings": dict(settings),
                "metered": [{field: getattr(device, field) for field in fields} for device in metered],
            },
            time_limit_s=_TIME_LIMIT_S,
        )  # fmt: skip
        return reply["description"], reply["call_s"]

    def save_outputs(self, path: Path) -> None:
        """Write the outputs of one call, as a reference for others."""
        self.request({"do": "save_outputs", "path": str(path)})

    def compare_outputs(self, reference: Path) -> OutputDifference:
        """Compare the outputs of one call with the reference."""
        return msgspec.convert(self.request({"do": "compare_outputs", "reference": str(reference)}), OutputDifference)

    def take_turn(self, calls: int, items: int) -> ContenderTurn:
        """Measure some calls, and then a stream of some items; 0 items: the stream's rate is that of the calls."""
        reply = self.request({"do": "turn", "calls": calls, "items": items}, time_limit_s=_TIME_LIMIT_S)
        return msgspec.convert(reply, ContenderTurn)


class ContenderHandler:
    """Serves one contender in its process; the first request loads it."""

    def __init__(self) -> None:
        self._contender: Contender | None = None
        self._meter: EnergyMeter | None = None

    def __call__(self, request: dict[str, Any]) -> object:
        """Answer one request."""
        if self._contender is None:
            return self._load(request)
        if request["do"] == "save_outputs":
            write_tensors(Path(request["path"]), self._contender.run())
            return None
        if request["do"] == "compare_outputs":
            return output_difference(self._contender.run(), read_tensors(Path(request["reference"])))
        return _measure_turn(self._contender, request["calls"], request["items"], self._meter)

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        contender = make_contender(request["system"])
        options = ContenderOptions(request["threads"], request["shapes"], request["settings"])
        description = contender.load(Path(request["model"]), read_tensors(Path(request["feeds"])), options)
        self._meter = EnergyMeter.of(Device(**fields) for fields in request["metered"])
        self._contender = contender
        return {"description": description, "call_s": _warm_up(contender)}


def _warm_up(contender: Contender) -> float:
    start_s, calls_s = perf_counter(), []
    for _ in range(_WARM_UP_CALLS):
        calls_s.append(_timed(contender))
        if perf_counter() - start_s > _WARM_UP_S:
            break
    return min(calls_s)


def _timed(contender: Contender) -> float:
    start_s = perf_counter()
    contender.run()
    return perf_counter() - start_s


def _measure_turn(contender: Contender, calls: int, items: int, meter: EnergyMeter | None) -> ContenderTurn:
    contender.run()
    min_s = TURN_MIN_S if meter is not None else 0.0
    timed: list[tuple[float, list[Event]]] = []
    before, start_s = meter.read() if meter is not None else None, perf_counter()
    for _ in range(calls):
        call_s = _timed(contender)
        timed.append((call_s, contender.events()))
    extra_calls = 0
    while perf_counter() - start_s < min_s:
        contender.run()
        extra_calls += 1
    turn_j = used_j(before, meter.read()) if meter is not None else None
    calls_s = [call_s for call_s, _ in timed]
    median_s = statistics.median(calls_s)
    events = min(timed, key=lambda call: abs(call[0] - median_s))[1]
    stream_hz = items / contender.stream(items) if items else len(calls_s) / sum(calls_s)
    energy_j = turn_j / (calls + extra_calls) if turn_j is not None else None
    return ContenderTurn(tuple(calls_s), stream_hz, tuple(events), _peak_bytes(), energy_j)


def _peak_bytes() -> int:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not on Linux
        pass
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))
