"""One line about a request to a language model: devices, speeds, and what the pair of devices gains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .quantities import duration

if TYPE_CHECKING:
    from trisect.llm.phases.phase_prediction import PhasePrediction
    from trisect.llm.running.generation_stats import DeviceLoss, GenerationStats


def request_summary(stats: GenerationStats) -> str:
    """Return devices, tokens per second of prompt and answer, and the time to the first token.

    Rates of less than two tokens have no meaning and are left out; simulators and software drivers are labelled.
    """
    prefill, decode = (
        named_device(stats.prefill, stats.prefill_reality),
        named_device(stats.decode, stats.decode_reality),
    )
    devices = decode if stats.prefill == stats.decode else f"{prefill} -> {decode}"
    computed = stats.prompt_tokens - stats.cached_tokens
    cached = f" ({stats.cached_tokens} cached)" if stats.cached_tokens else ""
    parts = [
        f"{devices}: prompt {computed} tokens{cached} at {stats.prefill_tok_s:,.0f} tok/s",
        f"answer {stats.new_tokens} at {stats.decode_tok_s:,.0f} tok/s"
        if stats.decode_tok_s
        else f"answer {stats.new_tokens}",
        f"first token after {duration(stats.first_token_s)}",
    ]
    return ", ".join(parts)


def loss_summary(loss: DeviceLoss) -> str:
    """Return which device failed, what was lost with it, and which one went on."""
    return (
        f"{loss.reason}: its keys and values were lost, {loss.successor} computed {loss.tokens_again} tokens again in "
        f"{duration(loss.again_s)} and went on alone"
    )


def named_device(device: str, reality: str) -> str:
    """Return a device's id, labelled where it is a simulator or a software driver."""
    return device if reality == "hardware" else f"{device} ({reality})"


def predicted_gain(predictions: Sequence[PhasePrediction]) -> str:
    """Return how much faster the chosen devices are than the best single one, as predicted; empty if that is unknown.

    Parameters
    ----------
    predictions : sequence of PhasePrediction
        Of all pairs, the chosen one first.
    """
    single = min((p for p in predictions if not p.is_split), key=lambda p: p.end_to_end_s, default=None)
    if single is None or single == predictions[0]:
        return "" if single is None or len(predictions) == 1 else "no split is predicted to be faster"
    gain = single.end_to_end_s / predictions[0].end_to_end_s
    return f"{gain:.2f}x the best single device, {single.decode} (predicted)"
