"""Measured times and sizes of one generation, the timer that measures them, and what was lost meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass

from trisect.runtime.device import Reality


@dataclass(frozen=True)
class GenerationStats:
    """Measured times and sizes of one generation."""

    prefill: str
    """Id of the device that computed the prompt."""
    decode: str
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens whose keys and values were there already, from an earlier prompt with the same beginning."""
    new_tokens: int
    load_s: float
    prefill_s: float
    """Prompt up to its scores, without cached tokens and without handing over."""
    kv_s: float
    """Copying keys and values between the devices."""
    kv_bytes: int
    """Size of what was copied; 0 if one device does both phases."""
    decode_s: float
    """All tokens after the first."""
    end_to_end_s: float
    """From token ids to the last token, without loading."""
    weights_copies: int
    """Number of engines that hold the weights in memory, each in its own layout."""
    prefill_reality: Reality = "hardware"
    """Whether the device that computed the prompt is hardware, or ``simulated`` or ``software``: then times mean
    nothing for hardware."""
    decode_reality: Reality = "hardware"

    @property
    def prefill_tok_s(self) -> float:
        """Computed prompt tokens per second."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_s if self.prefill_s else 0.0

    @property
    def first_token_s(self) -> float:
        """Time from token ids to the first new token."""
        return self.prefill_s + self.kv_s

    @property
    def decode_tok_s(self) -> float:
        """New tokens per second, after the first."""
        return (self.new_tokens - 1) / self.decode_s if self.decode_s and self.new_tokens > 1 else 0.0


@dataclass(frozen=True)
class DeviceLoss:
    """A device that failed while a request was computed, so that the other device went on alone."""

    device: str
    reason: str
    """The engine's error, in one line."""
    successor: str
    """Id of the device that went on."""
    tokens_again: int
    """Tokens of prompt and answer that it computed again: their keys and values were lost."""
    again_s: float
    """Time that this took."""


class PhaseTimer:
    """Times the phases of one generation."""

    def __init__(self) -> None:
        self._begin = self._prompt_done = self._last_token = time.perf_counter()
        self.device = ""
        self.kv_s = 0.0
        self.cached_tokens = 0

    def prompt_done(self, device: str, kv_s: float, cached_tokens: int) -> None:
        """Record that a device has computed the prompt, including the time of handing over."""
        self._prompt_done = self._last_token = time.perf_counter()
        self.device = device
        self.kv_s = kv_s
        self.cached_tokens = cached_tokens

    def token_done(self) -> None:
        """Record that a token was chosen."""
        self._last_token = time.perf_counter()

    @property
    def prefill_s(self) -> float:
        """Time of the prompt, without handing over."""
        return self._prompt_done - self._begin - self.kv_s

    @property
    def decode_s(self) -> float:
        """Time of all tokens after the first."""
        return self._last_token - self._prompt_done
