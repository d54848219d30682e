"""Answers are compared with those of the float32 model by the divergence of their distributions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trisect.bench.llm import answer_quality
from trisect.bench.llm.answer_quality import bench_quality, compare_scores
from trisect.runtime.progress import no_progress


def test_divergence_ignores_a_shift_and_sees_a_change() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 50))
    kl, same = compare_scores(scores, scores + 7)
    assert np.allclose(kl, 0)
    assert same.all()
    other = np.log(np.array([[0.5, 0.5]]))
    kl, same = compare_scores(np.log(np.array([[0.9, 0.1]])), other)
    assert kl[0] == pytest.approx(0.9 * np.log(1.8) + 0.1 * np.log(0.2))


def test_quality_of_every_pair_is_close_to_float32(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_quality, "is_installed", lambda package: False)
    result = bench_quality(str(tiny), new_tokens=6, prompts=["a b c", "hello"], progress=no_progress)
    assert len(result) == 4
    for each in result:
        assert each.tokens == 12
        assert each.mean_kl < 0.05
