"""Lets a device run a language model only after its scores agreed with the CPU's in float32.

Checked are the graph without quantised activations, where the engine can load it, with a strict limit, and the graph
that will run. Where runs of many tokens are wrong, runs of fewer are tried. The verdict is cached; engines whose
numbers tests have proved in this version (`DecoderSupport.proved_versions`) are not checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed
from trisect.runtime.progress import Progress, no_progress

from ..bundle import Bundle
from ..running.runners.chunked_runner import ChunkedRunner
from ..running.runners.runner import Runner
from ..running.runners.runner_loading import load_runner
from ..running.runners.static_loading import ANY_REQUEST, FixedShapes, host_cpus
from .score_check import LENGTHS, ScoreDifference, check_tokens, largest_difference, reference_scores
from .verdict_store import GateVerdict, store_verdict, stored_verdict, versions_of

FLOAT32_LIMIT = 1e-5
"""Of a device that computes in float32: other orders of summation were measured at 1e-9 and below, a kernel that gets
some rows wrong at 2e-3."""
REDUCED_LIMIT = 0.05
"""Of lower precision: activations in 8 bits or bfloat16 stay below 0.02 in the worst of five positions."""
_RUN_TOKENS = (None, 31, 1)
"""Numbers of new tokens in one run that are tried, in this order: subgroups of GPUs are up to 32 wide."""
_FEW_LENGTHS = tuple(length for length in LENGTHS if length < 100)
"""Compared where a run computes a single token: hundreds of runs would take too long."""


def load_gated_runner(
    bundle: Bundle,
    device: Device,
    *,
    threads: int | None = None,
    precision: str = "fast",
    decodes: bool,
    exports_cache: bool,
    fixed: FixedShapes = ANY_REQUEST,
) -> Runner:
    """Load a bundle's graph on a device whose numbers are right; see `load_runner`.

    Raises
    ------
    EngineFailed
        If they are not, with the difference; or as `load_runner`.
    """
    verdict = _right_verdict(bundle, device, precision, no_progress)
    runner = load_runner(
        bundle, device, threads=threads, precision=precision, decodes=decodes, exports_cache=exports_cache, fixed=fixed
    )
    limit = None if verdict is None else verdict.max_run_tokens
    return runner if limit is None else ChunkedRunner(runner, limit)


def check_numbers(
    bundle: Bundle, devices: Iterable[Device], *, precision: str = "fast", progress: Progress = no_progress
) -> None:
    """Check devices before any of them is loaded; what is known from an earlier check takes no time.

    Raises
    ------
    EngineFailed
        If the numbers of one are wrong, or it cannot load or run the model.
    """
    for device in devices:
        _right_verdict(bundle, device, precision, progress)


def is_unchecked(bundle: Bundle, device: Device, precision: str = "fast") -> bool:
    """Return whether the numbers of a device still have to be checked for a model."""
    return not is_proved(device) and known_verdict(bundle, device, precision) is None


def known_verdict(bundle: Bundle, device: Device, precision: str = "fast") -> GateVerdict | None:
    """Return a stored verdict; None where the device was not checked, or need not be."""
    return stored_verdict(bundle, device, _form(bundle, device), precision)


def _form(bundle: Bundle, device: Device) -> str:
    """Return what a device runs, as verdicts name it."""
    recorded = ", steps recorded" if engines.decoder_support(device).captures_steps else ""
    return f"{bundle.graph_for(device).file}{recorded}"


def is_proved(device: Device) -> bool:
    """Return whether tests have compared the numbers of such a device with float32 in this version."""
    return device.engine_version in engines.decoder_support(device).proved_versions


def device_verdict(
    bundle: Bundle, device: Device, *, precision: str, progress: Progress = no_progress
) -> GateVerdict | None:
    """Return the verdict on a device, found now if it is not stored; None where the device need not be checked."""
    if is_proved(device):
        return None
    verdict = known_verdict(bundle, device, precision)
    if verdict is None:
        verdict = _Gate(bundle, device, precision, progress).verdict()
        store_verdict(bundle, verdict)
    return verdict


def _right_verdict(bundle: Bundle, device: Device, precision: str, progress: Progress) -> GateVerdict | None:
    verdict = device_verdict(bundle, device, precision=precision, progress=progress)
    if verdict is not None and not verdict.is_right:
        raise EngineFailed(
            f"{device.id} computes {bundle.name} wrongly: {verdict.reason or verdict.text}",
            remedy="choose another device, or update its driver", device=device.id,
        )  # fmt: skip
    return verdict


@dataclass(frozen=True)
class _GateOutcome:
    """The largest difference of a graph's scores, in the largest runs that are right."""

    difference: ScoreDifference
    max_run_tokens: int | None
    reason: str = ""


class _Gate:
    """Compares one device with the reference, loading one model after the other."""

    def __init__(self, bundle: Bundle, device: Device, precision: str, progress: Progress) -> None:
        self._bundle = bundle
        self._device = device
        self._precision = precision
        self._progress = progress
        self._steps_done = 0
        self._ids = check_tokens(bundle.vocab, bundle.context_length)
        self._cache = bundle.new_cache(len(self._ids))
        self._is_float32 = bundle.kv_dtype in ("auto", "float32") and not engines.computes_in_half(device)
        self._expected: dict[int, np.ndarray] = {}

    def verdict(self) -> GateVerdict:
        """Return the verdict on the device.

        Raises
        ------
        EngineFailed
            If a model cannot be loaded.
        """
        self._report("float32 on the CPU")
        exact = self._bundle.with_kv_dtype("auto")
        with closing(self._load(exact, _reference_device(exact), exact=True)) as runner:
            self._expected = reference_scores(runner, exact.new_cache(len(self._ids)), self._ids)
        outcome, limit = None, FLOAT32_LIMIT
        if self._is_float32 and engines.capabilities(self._device).external_data_folder:
            outcome = self._outcome(True, limit, _RUN_TOKENS)
        if outcome is None or (self._precision != "float32" and outcome.difference.kl <= limit):
            first = outcome
            limit = FLOAT32_LIMIT if self._precision == "float32" and self._is_float32 else REDUCED_LIMIT
            sizes = _RUN_TOKENS if first is None else _RUN_TOKENS[_RUN_TOKENS.index(first.max_run_tokens) :]
            outcome = self._outcome(False, limit, sizes)
            if first is not None and first.reason and not outcome.reason:
                outcome = replace(outcome, reason=first.reason)
        worst = outcome.difference
        return GateVerdict(
            device=self._device.id,
            hardware=self._device.name,
            versions=versions_of(self._device),
            graph=_form(self._bundle, self._device),
            precision=self._precision,
            kl=worst.kl if math.isfinite(worst.kl) else None,
            limit=limit,
            tokens=worst.tokens,
            max_run_tokens=outcome.max_run_tokens,
            reason=outcome.reason,
        )

    def _outcome(self, exact: bool, limit: float, sizes: tuple[int | None, ...]) -> _GateOutcome:
        """Return how a graph differs, in the largest runs for which it is within the limit, or in the smallest."""
        reason = ""
        with closing(self._load(self._bundle, self._device, exact=exact)) as runner:
            for size in sizes:
                self._report(f"{self._device.id}, {'any number of' if size is None else size} tokens at a time")
                difference = self._difference(runner, size)
                if difference.kl <= limit:
                    return _GateOutcome(difference, size, reason)
                runs = "runs of any length" if size is None else f"runs of {size} tokens"
                kl = f"KL {difference.kl:.2g}" if math.isfinite(difference.kl) else "no numbers"
                reason = f"{kl} from float32 after {difference.tokens} tokens in {runs}, limit {limit:g}"
        return _GateOutcome(difference, size, reason)

    def _difference(self, runner: Runner, size: int | None) -> ScoreDifference:
        limited = runner if size is None else ChunkedRunner(runner, size)
        lengths = _FEW_LENGTHS if size == 1 else LENGTHS
        try:
            return largest_difference(limited, self._cache, self._ids, self._expected, lengths)
        except EngineFailed as error:
            if size == 1:
                raise
            self._report(f"{error.message}: fewer tokens are tried")
            return ScoreDifference(math.inf, len(self._ids), True)

    def _load(self, bundle: Bundle, device: Device, *, exact: bool) -> Runner:
        precision = "float32" if exact else self._precision
        return load_runner(
            bundle, device, precision=precision, decodes=True, exports_cache=False, exact=exact,
            fixed=FixedShapes(len(self._ids), progress=self._progress),
        )  # fmt: skip

    def _report(self, text: str) -> None:
        self._steps_done += 1
        self._progress(self._steps_done, max(6, self._steps_done), f"checking the numbers of {text}")


def _reference_device(bundle: Bundle) -> Device:
    """Return the CPU that computes the expected scores.

    Raises
    ------
    EngineFailed
        If no CPU runs the model in float32.
    """
    for device in host_cpus():
        if set(engines.decoder_support(device).modes) & {"in-place", "growing"}:
            return device
    raise EngineFailed(f"no CPU here computes {bundle.name} in float32", remedy="install onnxruntime")
