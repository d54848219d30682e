"""What prefill, decode and the hand-over between them cost on this machine, for one language model: measured curves.

All devices are measured in turn within each round, so that a machine that slows down for a while slows all of them.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from trisect.profiles.stored.profile_data import Provenance
from trisect.profiles.stored.profile_store import default_path
from trisect.profiles.stored.provenance import provenance
from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidProfile, ProfileMissing
from trisect.runtime.progress import Progress, no_progress

from ..bundle import Bundle
from ..running.kv_cache import KvCache
from ..running.runners import Runner, load_runner

SCHEMA = 1
PROMPT_TOKENS = (1, 16, 64, 128, 256, 512, 1500)
"""Lengths at which prefill is measured."""
CONTEXT_TOKENS = (16, 512, 1500)
"""Lengths of context at which decode is measured: its time grows linearly in between."""
_STEPS = 24
_SIZE_LIMIT_BYTES = 4 << 20


@dataclass(frozen=True)
class PhasePoint:
    """A median at one length."""

    tokens: int
    time_s: float
    spread: float
    """Interquartile range as a share of the median."""


@dataclass(frozen=True)
class DevicePhases:
    """Both phases on one device."""

    name: str
    engine_version: str
    prefill: tuple[PhasePoint, ...]
    """Time of a whole prompt."""
    decode: tuple[PhasePoint, ...]
    """Time of one token behind so many."""
    load_s: float


@dataclass(frozen=True)
class Handover:
    """Copying the KV cache from a prefill device to a decode device."""

    source: str
    target: str
    points: tuple[PhasePoint, ...]


@dataclass(frozen=True)
class PhaseProfile:
    """Measured costs of one language model's phases."""

    model: str
    """`Bundle.key` of the model."""
    precision: str
    threads: int | None
    provenance: Provenance
    devices: Mapping[str, DevicePhases]
    handovers: tuple[Handover, ...]
    schema: int = SCHEMA


def measure_phases(
    bundle: Bundle,
    devices: Sequence[Device],
    *,
    threads: int | None = None,
    precision: str = "fast",
    rounds: int = 3,
    progress: Progress = no_progress,
) -> PhaseProfile:
    """Measure every device's prefill and decode, and every hand-over.

    Parameters
    ----------
    bundle : Bundle
    devices : sequence of Device
    threads : int, optional
        Computing threads of each engine; None = the engine's default.
    precision : {"fast", "float32"}
    rounds : int
        How often everything is measured; medians are kept.
    progress : callable, optional
        Called with steps done, all steps, and what is being measured.

    Raises
    ------
    EngineFailed
        Where a device cannot run the model.
    """
    bench = _Bench(bundle, devices, threads, precision, rounds, progress)
    bench.measure_prefill()
    bench.measure_decode()
    return PhaseProfile(
        model=bundle.key,
        precision=precision,
        threads=threads,
        provenance=provenance(devices, threads),
        devices={
            device.id: DevicePhases(
                device.name,
                device.engine_version,
                _points(bench.prefill[device.id]),
                _points(bench.decode[device.id]),
                bench.load_s[device.id],
            )
            for device in devices
        },
        handovers=tuple(Handover(*pair, _points(times)) for pair, times in bench.handover.items()),
    )


class _Bench:
    """One measurement of a set of devices; holds what was timed so far."""

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
        self._contexts = [n for n in CONTEXT_TOKENS if n + _STEPS <= bundle.context_length] or [1]
        self._ids = np.random.default_rng(0).integers(0, bundle.vocab, max(self._prompts))
        longest = min(max(*self._prompts, *(n + _STEPS for n in self._contexts)), bundle.context_length)
        self._cache = KvCache(bundle.layers, bundle.kv_heads, bundle.head_dim, bundle.context_length, longest)
        self._steps = (rounds + 1) * len(devices) * 2
        self._done = 0
        self.prefill: dict[str, dict[int, list[float]]] = {d.id: defaultdict(list) for d in devices}
        self.decode: dict[str, dict[int, list[float]]] = {d.id: defaultdict(list) for d in devices}
        self.handover: dict[tuple[str, str], dict[int, list[float]]] = {}
        self.load_s: dict[str, float] = {}

    def measure_prefill(self) -> None:
        """Prompts of all lengths, and giving their caches to each other device."""
        runners = self._load(share=len(self._devices) > 1)
        try:
            for _ in range(self._rounds):
                for device in self._devices:
                    self._tell(f"prefill on {device.id}")
                    for tokens in self._prompts:
                        # The first run at a length plans memory and kernels for it.
                        self._prompt(runners, device.id, tokens)
                        elapsed, given = self._prompt(runners, device.id, tokens)
                        self.prefill[device.id][tokens].append(elapsed)
                        for target in (d.id for d in self._devices if d.id != device.id):
                            taken = runners[target].handover_s
                            runners[target].take(self._cache)
                            taken = runners[target].handover_s - taken
                            times = self.handover.setdefault((device.id, target), defaultdict(list))
                            times[tokens].append(given + taken)
        finally:
            _close(runners)

    def measure_decode(self) -> None:
        """Single tokens behind contexts of all lengths."""
        runners = self._load(share=False)
        try:
            for device in self._devices:
                self._prompt(runners, device.id, min(self._contexts))
            for _ in range(self._rounds):
                for device in self._devices:
                    self._tell(f"decode on {device.id}")
                    for tokens in self._contexts:
                        self._prompt(runners, device.id, tokens)
                        times = []
                        for step in range(min(_STEPS, self._bundle.context_length - tokens)):
                            begun = time.perf_counter()
                            runners[device.id].forward(self._ids[:1], tokens + step)
                            times.append(time.perf_counter() - begun)
                        # The first steps find the caches full of the prompt's data.
                        self.decode[device.id][tokens].append(statistics.median(times[2:]))
        finally:
            _close(runners)

    def _load(self, *, share: bool) -> dict[str, Runner]:
        runners: dict[str, Runner] = {}
        try:
            for device in self._devices:
                self._tell(f"loading on {device.id}")
                begun = time.perf_counter()
                runners[device.id] = load_runner(
                    self._bundle,
                    device,
                    threads=self._threads,
                    precision=self._precision,
                    decodes=True,
                    share=share,
                )
                self.load_s[device.id] = time.perf_counter() - begun
        except BaseException:
            _close(runners)
            raise
        return runners

    def _prompt(self, runners: Mapping[str, Runner], device: str, tokens: int) -> tuple[float, float]:
        runner = runners[device]
        self._cache.clear()
        before = runner.handover_s
        runner.reset(self._cache)
        begun = time.perf_counter()
        runner.forward(self._ids[:tokens], 0)
        elapsed = time.perf_counter() - begun
        given = runner.handover_s - before
        return elapsed - given, given

    def _tell(self, what: str) -> None:
        self._done += 1
        self._progress(min(self._done, self._steps), self._steps, what)


def _close(runners: Mapping[str, Runner]) -> None:
    for runner in runners.values():
        runner.close()


def _points(times: Mapping[int, Sequence[float]]) -> tuple[PhasePoint, ...]:
    points = []
    for tokens in sorted(times):
        low, middle, high = np.percentile(times[tokens], (25, 50, 75))
        points.append(PhasePoint(tokens, float(middle), float((high - low) / middle) if middle > 0 else 0.0))
    return tuple(points)


def phases_path(bundle: Bundle, precision: str, threads: int | None) -> Path:
    """Where the phases of a model on this machine are kept."""
    machine = default_path(precision)
    return machine.with_name(f"{machine.stem}-llm-{bundle.key}-{threads or 'auto'}.json")


def save_phases(profile: PhaseProfile, path: Path) -> None:
    """Write measured phases, aside first.

    Raises
    ------
    StorageFailed
    """
    write_atomically(path, msgspec.json.format(msgspec.json.encode(profile), indent=1))


def load_phases(path: Path, bundle: Bundle, devices: Sequence[Device]) -> PhaseProfile:
    """Read measured phases that still hold for these devices.

    Raises
    ------
    ProfileMissing
        Where there are none, or they are of another engine's version.
    InvalidProfile
        Where the file is damaged or of a newer version.
    """
    remedy = "move it away; it is measured again"
    try:
        if os.path.getsize(path) > _SIZE_LIMIT_BYTES:
            raise InvalidProfile(f"{path} is too large for a profile", remedy=remedy)
        content = path.read_bytes()
        if msgspec.json.decode(content).get("schema", 0) > SCHEMA:
            raise InvalidProfile(f"{path} is of a newer version", remedy="update trisect, or move it away")
        profile = msgspec.json.decode(content, type=PhaseProfile)
    except FileNotFoundError as error:
        raise ProfileMissing(f"the phases of {bundle.name} were not measured here") from error
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InvalidProfile(f"{path} is damaged: {error}", remedy=remedy) from error
    if wrong := _impossible(profile):
        raise InvalidProfile(f"{path} holds an impossible figure: {wrong}", remedy=remedy)
    now = {device.id: (device.name, device.engine_version) for device in devices}
    kept = {id_: d for id_, d in profile.devices.items() if now.get(id_) == (d.name, d.engine_version)}
    if profile.model != bundle.key:
        raise ProfileMissing(f"{path} holds the phases of another model")
    if missing := sorted(set(now) - set(kept)):
        raise ProfileMissing(f"the phases of {bundle.name} were not measured on {', '.join(missing)}")
    known = {(handover.source, handover.target) for handover in profile.handovers}
    for source, target in itertools.permutations(now, 2):
        if (source, target) not in known:
            raise ProfileMissing(f"handing over from {source} to {target} was not measured")
    return replace(profile, devices=kept)


def _impossible(profile: PhaseProfile) -> str | None:
    curves = [(f"prefill on {id_}", device.prefill) for id_, device in profile.devices.items()]
    curves += [(f"decode on {id_}", device.decode) for id_, device in profile.devices.items()]
    curves += [(f"{handover.source} to {handover.target}", handover.points) for handover in profile.handovers]
    for name, points in curves:
        lengths = [point.tokens for point in points]
        if not lengths or lengths[0] < 1 or any(b <= a for a, b in itertools.pairwise(lengths)):
            return f"{name}, lengths"
        if not all(math.isfinite(point.time_s) and point.time_s >= 0 for point in points):
            return f"{name}, times"
    return None
