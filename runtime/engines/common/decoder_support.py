"""What an engine states about running language models on a device: how it keeps the KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KvCacheMode = Literal["in-place", "stateful", "static", "growing"]
"""How a device keeps keys and values from one run to the next.

``in-place``: one buffer that a run reads and extends (``com.microsoft.GroupQueryAttention``); ``stateful``: inside the
compiled model; ``static``: slots of a fixed number of tokens, for devices that compile fixed shapes only; ``growing``:
each run returns a longer copy, which the next one takes.
"""

Evidence = Literal["hardware", "stand-in", "none"]
"""Where language models gave right answers on such a device: on hardware, on a simulator or a software driver that
stands in for it, or nowhere yet."""


@dataclass(frozen=True)
class DecoderSupport:
    """How a device can run language models; the defaults hold for an engine that states nothing."""

    modes: tuple[KvCacheMode, ...] = ("growing",)
    """Ways to keep the KV cache, the best one first; none = it runs no language models."""
    attention_dtypes: tuple[str, ...] = ("float32",)
    """Dtypes that its attention takes keys and values in."""
    exports_cache: bool = True
    """Whether another device can continue from its keys and values."""
    imports_cache: bool = True
    """Whether it can continue from those of another device."""
    soft_caps: bool = False
    """Whether its attention that extends caches in place caps the scores, where a model has it."""
    windowed_cache: bool = False
    """Whether a buffer extended in place may hold a sliding window only: its attention moves the rows itself."""
    captures_steps: bool = False
    """Whether a step of decode is recorded once and replayed, where the cache is in the device's own memory."""
    evidence: Evidence = "none"
    proved_versions: tuple[str, ...] = ()
    """Versions of the engine whose numbers tests have compared with float32 on such devices: they are not compared
    again where a model is loaded."""
    reason: str = ""
    """Why there are no modes, in words that follow the device's name."""
    remedy: str = "choose another device"


NO_DECODERS = DecoderSupport(modes=(), reason="is not available here")
"""Of a device whose engine is not installed."""
