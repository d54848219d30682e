"""How far the answers of a split, or of a quantised model, are from the float32 model's.

Teacher-forced: the float32 model writes an answer greedily; each contender is then asked for its scores after every
token of that very answer. Compared are probabilities, not raw scores, which may shift by a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trisect.llm.generate import open_bundle
from trisect.llm.running.generation import LanguageSession
from trisect.llm.running.prompt import tokenise
from trisect.runtime.device import select
from trisect.runtime.engines import find_hardware
from trisect.runtime.progress import Progress

from ..peers import is_installed

PROMPTS = Path(__file__).parents[1] / "prompts" / "twenty.txt"

_Scores = Callable[[list[int], list[int]], np.ndarray]


@dataclass(frozen=True)
class Quality:
    """One contender against the float32 model."""

    contender: str
    mean_kl: float
    """Kullback-Leibler divergence of the contender's next-token distribution from the float32 model's, in nats."""
    worst_kl: float
    """Largest over all tokens."""
    agreement: float
    """Share of tokens at which both like the same one best."""
    tokens: int


def compare(reference: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KL divergence and agreement at each position, of scores [positions, vocabulary].

    Examples
    --------
    >>> kl, same = compare(np.array([[0.0, 1.0]]), np.array([[5.0, 6.0]]))
    >>> round(float(kl[0]), 6), bool(same[0])
    (0.0, True)
    """
    p, q = _log_softmax(reference), _log_softmax(other)
    return (np.exp(p) * (p - q)).sum(axis=-1), p.argmax(axis=-1) == q.argmax(axis=-1)


def bench_quality(
    model: str, *, new_tokens: int = 48, prompts: Sequence[str] | None = None, progress: Progress
) -> list[Quality]:
    """Compare every device and pair, and llama.cpp where it is installed, with the float32 model.

    Parameters
    ----------
    model : str
        A GGUF file.
    new_tokens : int
        Length of each answer.
    prompts : sequence of str, optional
        Default: the twenty in this folder.
    progress : callable
    """
    texts = prompts or PROMPTS.read_text("utf-8").splitlines()
    devices = find_hardware("auto")
    reference_device = select("cpu:ort", devices)[0]
    cases: list[tuple[list[int], list[int], np.ndarray]] = []
    bundle = open_bundle(model, precision="float32", progress=progress)
    with LanguageSession(bundle, reference_device, reference_device, precision="float32") as session:
        for at, text in enumerate(texts):
            progress(at, len(texts), "float32 reference")
            ids = list(tokenise(bundle, session.tokenizer, text).ids)
            answer = list(session.generate(ids, max_new_tokens=new_tokens, ignore_eos=True).token_ids)[:-1]
            cases.append((ids, answer, session.scores(ids, answer)))
    results = []
    bundle = open_bundle(model, progress=progress)
    for prefill in devices:
        for decode in devices:
            name = prefill.id if prefill.id == decode.id else f"{prefill.id} -> {decode.id}"
            with LanguageSession(bundle, prefill, decode) as session:
                results.append(_judge(name, session.scores, cases, progress))
    if is_installed("llama_cpp") and Path(model).is_file():
        results.append(_judge("llama_cpp", _llama_cpp(model), cases, progress))
    return results


def _judge(
    name: str, scores: _Scores, cases: Sequence[tuple[list[int], list[int], np.ndarray]], progress: Progress
) -> Quality:
    divergence, same = [], []
    for at, (ids, answer, expected) in enumerate(cases):
        progress(at, len(cases), name)
        kl, agree = compare(expected, scores(ids, answer))
        divergence.append(kl)
        same.append(agree)
    kl, agree = np.concatenate(divergence), np.concatenate(same)
    return Quality(name, float(kl.mean()), float(kl.max()), float(agree.mean()), len(kl))


def _llama_cpp(model: str) -> _Scores:
    from ..peers.llama_cpp import Peer

    peer = Peer()
    peer.load(model, 0, {})
    return peer.scores


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
