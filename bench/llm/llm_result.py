"""Results of a comparison of language models, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from trisect.runtime.device import Reality

from .batch_throughput import BatchPoint
from .crossover import Crossover


@dataclass(frozen=True)
class LlmRun:
    """Medians of one contender at one prompt length."""

    peer: str | None
    """Name of another system, or of a variant of trisect; None = trisect itself."""
    prefill: str
    decode: str
    prompt_tokens: int
    new_tokens: int
    prefill_tok_s: float
    decode_tok_s: float
    kv_bytes: int
    kv_s: float
    end_to_end_s: float
    spread: float
    """Interquartile range of `end_to_end_s` as a fraction of the median."""
    rss_bytes: int
    """Largest resident memory of its process."""
    predicted_s: float | None
    """Predicted `end_to_end_s`; None for contenders without a prediction."""
    predicted_prefill_s: float | None
    predicted_decode_s: float | None
    prefill_reality: Reality = "hardware"
    """``simulated`` or ``software`` where times mean nothing for hardware."""
    decode_reality: Reality = "hardware"


@dataclass(frozen=True)
class AutoChoice:
    """The pair of devices that ``auto`` chose at one prompt length, compared with the best one measured."""

    prompt_tokens: int
    prefill: str
    decode: str
    chosen_s: float
    best_s: float

    @property
    def regret(self) -> float:
        """Relative loss of the choice: chosen / best - 1."""
        return self.chosen_s / self.best_s - 1


@dataclass(frozen=True)
class MachineUtilisation:
    """Measured limits of the machine, and the fraction of them that was reached."""

    read_bandwidth_bytes_per_s: float
    peak_flops: float
    """Of a large matrix product on the best device, in its fastest precision, in FLOP/s."""
    decode_bytes_per_token: int
    """Weights and KV cache, in the middle of the answer."""
    prefill_flops_per_token: float
    decode_share: float
    prefill_share: float


@dataclass(frozen=True)
class LlmBench:
    """A comparison of devices, pairs of devices and other systems on one language model."""

    model: str
    threads: int | None
    rounds: int
    runs: tuple[LlmRun, ...]
    choices: tuple[AutoChoice, ...]
    limits: MachineUtilisation
    overhead: float | None
    """Of trisect over a bare loop on the same engine, as a fraction of decode time; None if no device has one."""
    best_single_s: float
    best_pair_s: float
    ratio: float
    """Best single device / best pair, at the last prompt length."""
    notes: tuple[str, ...]
    crossover: Crossover | None = None
    """Curves of both phases on every device, and the requests for which a pair of devices is faster."""
    batches: tuple[BatchPoint, ...] = ()
    """Throughput of both phases over the batch size, on every device."""
