"""Compares the next-token distributions of splits and quantised models with those of the float32 model.

By teacher forcing: the float32 model generates an answer greedily, and each contender computes its scores after every
token of that answer. Probabilities are compared, not scores (logits), which may be shifted by a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trisect.llm.generate import open_bundle
from trisect.llm.running.generation import LanguageSession
from trisect.llm.running.prompt import tokenise
from trisect.llm.running.runners.static_loading import FixedShapes
from trisect.runtime.engines import find_devices, find_hardware
from trisect.runtime.progress import Progress

from ..peers import is_installed

_REFERENCE = "cpu:ort"
"""Device of the float32 model."""
PROMPTS = Path(__file__).parents[1] / "prompts" / "twenty.txt"

_Scores = Callable[[list[int], list[int]], np.ndarray]


@dataclass(frozen=True)
class AnswerQuality:
    """One contender compared with the float32 model."""

    contender: str
    mean_kl: float
    """Kullback-Leibler divergence of the contender's next-token distribution from the float32 model's, in nats."""
    worst_kl: float
    """Maximum over all tokens."""
    agreement: float
    """Fraction of positions at which both have the same most likely token."""
    tokens: int


def compare_scores(reference: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return KL divergence and agreement at each position, of scores [positions, vocabulary].

    Examples
    --------
    >>> kl, same = compare_scores(np.array([[0.0, 1.0]]), np.array([[5.0, 6.0]]))
    >>> round(float(kl[0]), 6), bool(same[0])
    (0.0, True)
    """
    p, q = _log_softmax(reference), _log_softmax(other)
    return (np.exp(p) * (p - q)).sum(axis=-1), p.argmax(axis=-1) == q.argmax(axis=-1)


def bench_quality(
    model: str,
    devices: str = "auto",
    *,
    new_tokens: int = 48,
    prompts: Sequence[str] | None = None,
    kv_dtype: str = "auto",
    progress: Progress,
) -> list[AnswerQuality]:
    """Compare every device and pair, and llama.cpp where it is installed, with the float32 model.

    Parameters
    ----------
    model : str
        A GGUF file.
    devices : str
        Device ids or kinds, comma-separated; ``auto`` leaves out simulators and software drivers.
    new_tokens : int
        Length of each answer.
    prompts : sequence of str, optional
        By default the twenty in ``bench/prompts``.
    kv_dtype : str
        Dtype of the contenders' KV cache; see `open_bundle`.
    """
    texts = prompts or PROMPTS.read_text("utf-8").splitlines()
    reference_device = find_devices(_REFERENCE)[0]
    cases: list[tuple[list[int], list[int], np.ndarray]] = []
    bundle = open_bundle(model, precision="float32", progress=progress)
    with LanguageSession(bundle, reference_device, reference_device, precision="float32") as session:
        for at, text in enumerate(texts):
            progress(at, len(texts), "float32 reference")
            ids = list(tokenise(bundle, session.tokenizer, text).ids)
            answer = list(session.generate(ids, max_new_tokens=new_tokens, ignore_eos=True).token_ids)[:-1]
            cases.append((ids, answer, session.scores(ids, answer)))
    results = []
    bundle = open_bundle(model, kv_dtype=kv_dtype, progress=progress)
    longest = max(len(ids) + len(answer) for ids, answer, _ in cases)
    compared = find_hardware(devices)
    for prefill in compared:
        for decode in compared:
            name = prefill.id if prefill.id == decode.id else f"{prefill.id} -> {decode.id}"
            with LanguageSession(bundle, prefill, decode, fixed=FixedShapes(longest + 1)) as session:
                results.append(_compare_contender(name, session.scores, cases, progress))
    if is_installed("llama_cpp") and Path(model).is_file():
        results.append(_compare_contender("llama_cpp", _llama_cpp(model), cases, progress))
    return results


def _compare_contender(
    name: str, scores: _Scores, cases: Sequence[tuple[list[int], list[int], np.ndarray]], progress: Progress
) -> AnswerQuality:
    divergences, agreements = [], []
    for at, (ids, answer, expected) in enumerate(cases):
        progress(at, len(cases), name)
        kl, agree = compare_scores(expected, scores(ids, answer))
        divergences.append(kl)
        agreements.append(agree)
    kl, agree = np.concatenate(divergences), np.concatenate(agreements)
    return AnswerQuality(name, float(kl.mean()), float(kl.max()), float(agree.mean()), len(kl))


def _llama_cpp(model: str) -> _Scores:
    from ..peers.llama_cpp import load

    return load(model, 0, {}).scores


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
