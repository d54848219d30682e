"""Measures prefill, decode and the hand-over of the KV cache on every device, for one language model.

Within each round the devices take turns, so that a temporary slowdown of the machine affects all of them.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trisect.profiles.measuring.call_timing import summarise
from trisect.profiles.stored.provenance import provenance
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed
from trisect.runtime.progress import Progress, no_progress

from ..bundle import Bundle
from ..gate.numeric_gate import check_numbers, load_gated_runner
from ..running.kv_cache import KvCache
from ..running.runners.runner import Runner
from ..running.runners.static_loading import FixedShapes, chunk_tokens
from .phase_profile import DevicePhases, Handover, PhasePoint, PhaseProfile, merged_phases

PROMPT_TOKENS = (1, 16, 64, 128, 256, 512, 1500)
"""Prompt lengths at which prefill is measured."""
CONTEXT_TOKENS = (16, 512, 1500)
"""Context lengths at which decode is measured: its time grows linearly in between."""
_DECODE_STEPS = 24
_ALWAYS_TOKENS = 16
"""Lengths up to this one are measured once whatever the budget is."""
_WARMUP_STEPS = 2
"""Decode steps not counted: they find the processor's caches full of the prompt's data."""

_Times = dict[int, list[float]]


@dataclass(frozen=True)
class PhaseScope:
    """How much is measured."""

    up_to_tokens: int | None = None
    """Length of the longest request that is to be predicted; None = all lengths."""
    rounds: int = 3
    """Number of measurements, of which the medians are returned."""
    budget_s: float | None = None
    """Time after which only the shortest lengths are still measured, once."""

    def prompts(self, bundle: Bundle) -> list[int]:
        """Return the prompt lengths to measure."""
        return self._covering([n for n in PROMPT_TOKENS if n < bundle.context_length])

    def contexts(self, bundle: Bundle) -> list[int]:
        """Return the context lengths to measure."""
        return self._covering([n for n in CONTEXT_TOKENS if n + _DECODE_STEPS <= bundle.context_length])

    def _covering(self, lengths: list[int]) -> list[int]:
        """Return the lengths up to the first one that is not shorter than the longest request."""
        if self.up_to_tokens is not None:
            lengths = lengths[: 1 + sum(n < self.up_to_tokens for n in lengths)]
        return lengths or [1]


ALL_LENGTHS = PhaseScope()


def is_measured(known: PhaseProfile, bundle: Bundle, devices: Sequence[Device], scope: PhaseScope) -> bool:
    """Return whether a profile has everything in the scope."""
    measurement = _PhaseMeasurement(bundle, devices, None, "", scope, known)
    return not measurement.missing_prompts and not measurement.missing_contexts


def measure_phases(
    bundle: Bundle,
    devices: Sequence[Device],
    *,
    threads: int | None = None,
    precision: str = "fast",
    scope: PhaseScope = ALL_LENGTHS,
    known: PhaseProfile | None = None,
    checkpoint: Callable[[PhaseProfile], None] | None = None,
    progress: Progress = no_progress,
) -> PhaseProfile:
    """Measure every device's prefill and decode, and the hand-over between every two devices.

    Parameters
    ----------
    threads : int, optional
        Compute threads of each engine; None = the engine's default.
    known : PhaseProfile, optional
        Measurements of these devices that are not made again.
    checkpoint : callable, optional
        Called with all measurements so far after each round, and when the user interrupts.

    Raises
    ------
    EngineFailed
        With the device that cannot run the model.
    """
    measurement = _PhaseMeasurement(bundle, devices, threads, precision, scope, known)
    measurement.progress = progress
    try:
        for measure in (measurement.measure_prefill, measurement.measure_decode):
            for _ in measure():
                if checkpoint is not None:
                    checkpoint(measurement.profile())
    except KeyboardInterrupt:
        if checkpoint is not None:
            checkpoint(measurement.profile())
        raise
    return measurement.profile()


class _PhaseMeasurement:
    """One measurement of a set of devices, with the times so far by number of tokens."""

    def __init__(
        self,
        bundle: Bundle,
        devices: Sequence[Device],
        threads: int | None,
        precision: str,
        scope: PhaseScope,
        known: PhaseProfile | None,
    ) -> None:
        self.progress = no_progress
        self._bundle = bundle
        self._devices = devices
        self._threads = threads
        self._precision = precision
        self._scope = scope
        self._known = known
        self._prompts, self._contexts = scope.prompts(bundle), scope.contexts(bundle)
        self.missing_prompts = {(d.id, n) for d in devices for n in self._prompts if not self._has_prompt(d, n)}
        self.missing_contexts = {(d.id, n) for d in devices for n in self._contexts if not self._has_context(d, n)}
        self._end_s = time.monotonic() + (float("inf") if scope.budget_s is None else scope.budget_s)
        self._steps = len(devices) * (2 + scope.rounds * (len(self._prompts) + len(self._contexts)))
        self._steps_done = 0
        self.prefill: dict[str, _Times] = {d.id: defaultdict(list) for d in devices}
        self.decode: dict[str, _Times] = {d.id: defaultdict(list) for d in devices}
        self.handover: dict[tuple[str, str], _Times] = {}
        self.load_s: dict[str, float] = {}

    @cached_property
    def _ids(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, self._bundle.vocab, max(*self._prompts, *self._contexts))

    @property
    def _longest_tokens(self) -> int:
        longest = max(*self._prompts, *(n + _DECODE_STEPS for n in self._contexts))
        return min(longest, self._bundle.context_length)

    @cached_property
    def _cache(self) -> KvCache:
        return self._bundle.new_cache(self._longest_tokens)

    def profile(self) -> PhaseProfile:
        """Return all measurements so far, with those that were known before."""
        devices, known = {}, self._known
        for device in self._devices:
            load_s = self.load_s.get(device.id)
            if load_s is not None:
                curves = _points(self.prefill[device.id]), _points(self.decode[device.id])
                devices[device.id] = DevicePhases(
                    device.name, device.engine_version, *curves, load_s, chunk_tokens(self._bundle, device)
                )
        measured = PhaseProfile(
            model=self._bundle.key,
            precision=self._precision,
            threads=self._threads,
            provenance=provenance(self._devices, self._threads),
            devices=devices,
            handovers=tuple(Handover(*pair, _points(times)) for pair, times in self.handover.items()),
            flops_per_token=self._bundle.flops_per_token,
            decode_bytes_per_token=self._bundle.decode_bytes_per_token,
            cache_bytes_per_token=self._bundle.cache_bytes_per_token,
        )
        return measured if known is None else merged_phases(known, measured)

    def measure_prefill(self) -> Iterator[None]:
        """Measure prompts, and handing their caches over to each other device; yield after each round."""
        if not self.missing_prompts:
            return
        with self._loaded(exports_cache=len(self._devices) > 1) as runners:
            for number in range(self._scope.rounds):
                for tokens, device in itertools.product(self._prompts, self._devices):
                    self._report(f"prefill on {device.id}")
                    if (device.id, tokens) not in self.missing_prompts or self._takes_too_long(device, tokens, number):
                        continue
                    # The first run at a length plans memory and kernels for it.
                    self._prefill(runners, device, tokens)
                    elapsed_s, export_s = self._prefill(runners, device, tokens)
                    self.prefill[device.id][tokens].append(elapsed_s)
                    for target in self._devices:
                        if target is not device:
                            import_s = self._import(runners[target.id], target)
                            times = self.handover.setdefault((device.id, target.id), defaultdict(list))
                            times[tokens].append(export_s + import_s)
                yield

    def measure_decode(self) -> Iterator[None]:
        """Measure single tokens after contexts of all lengths; yield after each round."""
        if not self.missing_contexts:
            return
        with self._loaded(exports_cache=False) as runners:
            for device in self._devices:
                self._prefill(runners, device, min(self._contexts))
            for number in range(self._scope.rounds):
                for tokens, device in itertools.product(self._contexts, self._devices):
                    self._report(f"decode on {device.id}")
                    if (device.id, tokens) not in self.missing_contexts or self._takes_too_long(device, tokens, number):
                        continue
                    self._prefill(runners, device, tokens)
                    steps_s = self._decode(runners[device.id], device, tokens)
                    self.decode[device.id][tokens].append(statistics.median(steps_s[_WARMUP_STEPS:] or steps_s))
                yield

    def _has_prompt(self, device: Device, tokens: int) -> bool:
        """Return whether a prompt, and handing it over to each other device, is known."""
        if self._known is None or device.id not in self._known.devices:
            return False
        curves = [self._known.devices[device.id].prefill]
        pairs = {(row.source, row.target): row.points for row in self._known.handovers}
        curves += [pairs.get((device.id, other.id), ()) for other in self._devices if other is not device]
        return all(any(point.tokens == tokens for point in points) for points in curves)

    def _has_context(self, device: Device, tokens: int) -> bool:
        if self._known is None or device.id not in self._known.devices:
            return False
        return any(point.tokens == tokens for point in self._known.devices[device.id].decode)

    def _takes_too_long(self, device: Device, tokens: int, round_number: int) -> bool:
        """Return whether a prompt would probably end after the budget; never for the first and shortest ones."""
        if round_number == 0 and tokens <= _ALWAYS_TOKENS:
            return False
        times = self.prefill[device.id]
        longest = max(times, default=None)
        expected_s = 0.0 if longest is None else 2 * statistics.median(times[longest]) * tokens / longest
        return time.monotonic() + expected_s > self._end_s

    @contextmanager
    def _loaded(self, *, exports_cache: bool) -> Iterator[Mapping[str, Runner]]:
        """Load the model on all devices, and close the runners at the end of the block."""
        for device in self._devices:
            with _attribute_failures(device):
                check_numbers(self._bundle, [device], precision=self._precision, progress=self.progress)
        with ExitStack() as stack:
            runners: dict[str, Runner] = {}
            for device in self._devices:
                self._report(f"loading on {device.id}")
                begin = time.perf_counter()
                with _attribute_failures(device):
                    runners[device.id] = load_gated_runner(
                        self._bundle,
                        device,
                        threads=self._threads,
                        precision=self._precision,
                        decodes=True,
                        exports_cache=exports_cache,
                        fixed=FixedShapes(self._longest_tokens, progress=self.progress),
                    )
                stack.callback(runners[device.id].close)
                self.load_s[device.id] = time.perf_counter() - begin
                self._end_s += self.load_s[device.id]  # the budget is for measuring
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
            room = self._bundle.context_length - context
            if room == 0:  # a context of one token: the model never continues, and computes that token only
                runner.reset(self._cache)
                context, room = 0, 1
            for step in range(min(_DECODE_STEPS, room)):
                begin = time.perf_counter()
                runner.forward(self._ids[:1], context + step)
                steps_s.append(time.perf_counter() - begin)
        return steps_s

    def _report(self, text: str) -> None:
        self._steps_done += 1
        self.progress(min(self._steps_done, self._steps), self._steps, text)


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
