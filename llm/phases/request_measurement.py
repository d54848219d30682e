"""Measures one request on several pairs of devices, beside its predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trisect.runtime import engines
from trisect.runtime.progress import Progress, no_progress

from ..bundle import Bundle
from ..running.generation import LanguageSession
from ..running.generation_stats import GenerationStats
from ..running.runners.static_loading import FixedShapes
from .phase_prediction import PhasePrediction

_REPEATS = 3


@dataclass(frozen=True)
class MeasuredRequest:
    """One request on one pair of devices: measured and predicted times."""

    stats: GenerationStats
    """Of the run of median duration."""
    predicted: PhasePrediction


def measure_request(
    bundle: Bundle,
    prompt: Sequence[int],
    predictions: Iterable[PhasePrediction],
    *,
    new_tokens: int,
    threads: int | None = None,
    precision: str = "fast",
    progress: Progress = no_progress,
) -> list[MeasuredRequest]:
    """Run a request on several pairs of devices, one pair after the other, each after one warm-up run.

    Parameters
    ----------
    prompt : sequence of int
        Token ids.
    predictions : iterable of PhasePrediction
        The pairs, with their predictions.
    new_tokens : int
        Number of tokens generated, also after an end-of-sequence token.
    """
    measured = []
    pairs = list(predictions)
    ids = dict.fromkeys(id_ for predicted in pairs for id_ in (predicted.prefill, predicted.decode))
    devices = {id_: engines.find_devices(id_)[0] for id_ in ids}  # also those that are used by name only
    for at, predicted in enumerate(pairs):
        progress(at, len(pairs), f"measuring {predicted.prefill} -> {predicted.decode}")
        pair = devices[predicted.prefill], devices[predicted.decode]
        fixed = FixedShapes(len(prompt) + new_tokens, progress=progress)
        with LanguageSession(bundle, *pair, threads=threads, precision=precision, fixed=fixed) as session:
            runs = [
                session.generate(prompt, max_new_tokens=new_tokens, ignore_eos=True).stats for _ in range(1 + _REPEATS)
            ]
        by_duration = sorted(runs[1:], key=lambda stats: stats.end_to_end_s)
        measured.append(MeasuredRequest(by_duration[len(by_duration) // 2], predicted))
    return measured
