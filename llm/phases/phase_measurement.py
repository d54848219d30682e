"""Measures prefill, decode and the hand-over of the KV cache on every device, for one language model.

Within each round the devices take turns, so that a temporary slowdown of the machine affects all of them.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from trisect.profiles.measuring.call_timing import summarise
from trisect.profiles.stored.provenance import provenance
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed
from trisect.runtime.progress import Progress, no_progress

from ..bundle import Bundle
from ..running.runners import Runner, load_runner
from .phase_profile import DevicePhases, Handover, PhasePoint, PhaseProfile

PROMPT_TOKENS = (1, 16, 64, 128, 256, 512, 1500)
"""Prompt lengths at which prefill is measured."""
CONTEXT_TOKENS = (16, 512, 1500)
"""Context lengths at which decode is measured: its time grows linearly in between."""
_DECODE_STEPS = 24
_WARMUP_STEPS = 2
"""Decode steps not counted: they find the processor's caches full of the prompt's data."""

_Times = dict[int, list[float]]


def measure_phases(
    bundle: Bundle,
    devices: Sequence[Device],
    *,
    threads: int | None = None,
    precision: str = "fast",
    rounds: int = 3,
    progress: Progress = no_progress,
) -> PhaseProfile:
    """Measure every device's prefill and decode, and the hand-over between every two devices.

    Parameters
    ----------
    threads : int, optional
        Compute threads of each engine; None = the engine's default.
    rounds : int
        Number of measurements, of which the medians are returned.

    Raises
    ------
    EngineFailed
        With the device that cannot run the model.
    """
    measurement = _PhaseMeasurement(bundle, devices, threads, precision, rounds, progress)
    measurement.measure_prefill()
    measurement.measure_decode()
    return PhaseProfile(
        model=bundle.key,
        precision=precision,
        threads=threads,
        provenance=provenance(devices, threads),
        devices={
            device.id: DevicePhases(
                device.name,
                device.engine_version,
                _points(measurement.prefill[device.id]),
                _points(measurement.decode[device.id]),
                measurement.load_s[device.id],
            )
            for device in devices
        },
        handovers=tuple(Handover(*pair, _points(times)) for pair, times in measurement.handover.items()),
    )


class _PhaseMeasurement:
    """One measurement of a set of devices, with the times so far by number of tokens."""

    def __init__(
        self,
        bundle: Bundle,
        devices: Sequence[Device],
        threads: int | None,
        precision: str,
        rounds: int,
        progress: Progress,
    ) -> None:
        self._bundle = bundle
        self._devices = devices
        self._threads = threads
        self._precision = precision
        self._rounds = rounds
        self._progress = progress
        self._prompts = [n for n in PROMPT_TOKENS if n < bundle.context_length] or [1]
        self._contexts = [n for n in CONTEXT_TOKENS if n + _DECODE_STEPS <= bundle.context_length] or [1]
        self._ids = np.random.default_rng(0).integers(0, bundle.vocab, max(self._prompts))
        longest = max(*self._prompts, *(n + _DECODE_STEPS for n in self._contexts))
        self._cache = bundle.new_cache(min(longest, bundle.context_length))
        self._steps = (rounds + 1) * len(devices) * 2
        self._steps_done = 0
        self.prefill: dict[str, _Times] = {d.id: defaultdict(list) for d in devices}
        self.decode: dict[str, _Times] = {d.id: defaultdict(list) for d in devices}
        self.handover: dict[tuple[str, str], _Times] = {}
        self.load_s: dict[str, float] = {}

    def measure_prefill(self) -> None:
        """Measure prompts of all lengths, and handing their caches over to each other device."""
        with self._loaded(exports_cache=len(self._devices) > 1) as runners:
            for _ in range(self._rounds):
                for device in self._devices:
                    self._report(f"prefill on {device.id}")
                    for tokens in self._prompts:
                        # The first run at a length plans memory and kernels for it.
                        self._prefill(runners, device, tokens)
                        elapsed_s, export_s = self._prefill(runners, device, tokens)
                        self.prefill[device.id][tokens].append(elapsed_s)
                        for target in self._devices:
                            if target is not device:
                                import_s = self._import(runners[target.id], target)
                                times = self.handover.setdefault((device.id, target.id), defaultdict(list))
                                times[tokens].append(export_s + import_s)

    def measure_decode(self) -> None:
        """Measure single tokens after contexts of all lengths."""
        with self._loaded(exports_cache=False) as runners:
            for device in self._devices:
                self._prefill(runners, device, min(self._contexts))
            for _ in range(self._rounds):
                for device in self._devices:
                    self._report(f"decode on {device.id}")
                    for tokens in self._contexts:
                        self._prefill(runners, device, tokens)
                        steps_s = self._decode(runners[device.id], device, tokens)
                        self.decode[device.id][tokens].append(statistics.median(steps_s[_WARMUP_STEPS:]))

    @contextmanager
    def _loaded(self, *, exports_cache: bool) -> Iterator[Mapping[str, Runner]]:
        """Load the model on all devices, and close the runners at the end of the block."""
        with ExitStack() as stack:
            runners: dict[str, Runner] = {}
            for device in self._devices:
                self._report(f"loading on {device.id}")
                begin = time.perf_counter()
                with _attribute_failures(device):
                    runners[device.id] = load_runner(
                        self._bundle,
                        device,
                        threads=self._threads,
                        precision=self._precision,
                        decodes=True,
                        exports_cache=exports_cache,
                    )
                stack.callback(runners[device.id].close)
                self.load_s[device.id] = time.perf_counter() - begin
            yield runners

    def _prefill(self, runners: Mapping[str, Runner], device: Device, tokens: int) -> tuple[float, float]:
        """Compute a prompt; return the time of computing and the time of exporting the cache, in seconds."""
        runner = runners[device.id]
        self._cache.clear()
        with _attribute_failures(device):
            before_s = runner.handover_s
            runner.reset(self._cache)
            begin = time.perf_counter()
            runner.forward(self._ids[:tokens], 0)
            elapsed_s = time.perf_counter() - begin
        export_s = runner.handover_s - before_s
        return elapsed_s - export_s, export_s

    def _import(self, runner: Runner, device: Device) -> float:
        """Return the time of continuing from the cache on another device, in seconds."""
        with _attribute_failures(device):
            before_s = runner.handover_s
            runner.continue_from(self._cache)
            return runner.handover_s - before_s

    def _decode(self, runner: Runner, device: Device, context: int) -> list[float]:
        """Return the times of single tokens after a context, in seconds."""
        steps_s = []
        with _attribute_failures(device):
            for step in range(min(_DECODE_STEPS, self._bundle.context_length - context)):
                begin = time.perf_counter()
                runner.forward(self._ids[:1], context + step)
                steps_s.append(time.perf_counter() - begin)
        return steps_s

    def _report(self, text: str) -> None:
        self._steps_done += 1
        self._progress(min(self._steps_done, self._steps), self._steps, text)


@contextmanager
def _attribute_failures(device: Device) -> Iterator[None]:
    """Record the device in an `EngineFailed` that does not name one."""
    try:
        yield
    except EngineFailed as error:
        error.device = error.device or device.id
        raise


def _points(times: Mapping[int, Sequence[float]]) -> tuple[PhasePoint, ...]:
    points = []
    for tokens in sorted(times):
        timing = summarise(times[tokens])
        points.append(PhasePoint(tokens, timing.median_s, timing.spread))
    return tuple(points)
