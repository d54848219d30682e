"""Chooses the cuts of a model whose measurement tells most about all the others.

A cut shows what boundaries cost in this model: layouts that are converted, fusions that are lost, engines that wake up.
Among random cuts, those are measured that reduce the variance of the predicted times of all candidates most (greedy
choice for Gaussian processes; Krause, Singh and Guestrin 2008, https://www.jmlr.org/papers/v9/krause08a.html, with the
total variance as the criterion, as Cohn 1996 does, https://doi.org/10.1016/0893-6080(95)00137-9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trisect.profiles.costmodel.cost_terms import CostTerm
from trisect.profiles.costmodel.device_model import DeviceModel

_NOISE = 0.04
"""Relative standard deviation of a measured segment."""


@dataclass(frozen=True)
class CandidateCut:
    """The segments of a cut: device id and cost terms of each."""

    segments: tuple[tuple[str, tuple[CostTerm, ...]], ...]


def most_informative(cuts: Sequence[CandidateCut], models: Mapping[str, DeviceModel], count: int) -> list[int]:
    """Return the positions of the cuts to measure, the most informative first.

    Parameters
    ----------
    models : mapping of str to DeviceModel
        By device id; segments on other devices are taken as known.
    count : int
        Maximum number of cuts.
    """
    rows = [
        (number, device, terms) for number, cut in enumerate(cuts) for device, terms in cut.segments if device in models
    ]
    if not rows:
        return []
    owner = np.array([number for number, _, _ in rows])
    times_s = np.zeros(len(rows))
    covariance = np.zeros((len(rows), len(rows)))
    for device, model in models.items():
        own = [i for i, row in enumerate(rows) if row[1] == device]
        if own:
            joint = model.joint_estimate([rows[i][2] for i in own])
            times_s[own] = joint.times_s
            covariance[np.ix_(own, own)] = joint.covariance
    total_s = np.bincount(owner, times_s, minlength=len(cuts))
    sums = (owner[None, :] == np.arange(len(cuts))[:, None]) / np.maximum(total_s, 1e-12)[:, None]
    chosen: list[int] = []
    for _ in range(min(count, len(cuts))):
        gains = [
            -1.0
            if number in chosen
            else float((_explained(sums @ covariance, owner == number, covariance, times_s) ** 2).sum())
            for number in range(len(cuts))
        ]
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            break
        chosen.append(best)
        reduction = _explained(covariance, owner == best, covariance, times_s)
        covariance = covariance - reduction @ reduction.T
    return chosen


def _explained(rows: np.ndarray, measured: np.ndarray, covariance: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Return a root of the part of the rows' covariance that measuring some segments explains."""
    inner = covariance[np.ix_(measured, measured)] + np.diag((_NOISE * times_s[measured]) ** 2 + 1e-18)
    return np.asarray(np.linalg.solve(np.linalg.cholesky(inner), rows[:, measured].T).T)
