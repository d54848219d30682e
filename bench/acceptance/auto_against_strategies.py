"""Compares the plan that ``auto`` chooses by running candidates with the plans of all strategies, measured afterwards.

Each model starts with nothing measured and empty caches, as on a machine where trisect was just installed. Then all
plans run in turns in one process; those that are far slower than the best in their first runs are left out of the
turns. A plan that several strategies return runs once.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from trisect import api
from trisect.partitioner.planning.contender_runs import ContenderRuns
from trisect.partitioner.strategies import names
from trisect.runtime.device import Device
from trisect.runtime.errors import TrisectError
from trisect.runtime.plans.plan import Plan
from trisect.runtime.progress import Progress, no_progress

from ..comparing.candidates import signature
from ..separate_caches import caches_in
from .interleaved_timing import median_ratio, timed
from .prediction.prediction_error import models_in

BEST_RATIO_MAX, ALONE_RATIO_MIN = 1.03, 1.0
_SEARCH_S = 2.0
_IN_TURNS_RATIO, _RUNNING_S, _TURN_S = 1.3, 0.1, 0.05
_TIME_LIMIT_S = 240.0


@dataclass(frozen=True)
class AutoOutcome:
    """What ``auto`` chose for one model, and what the strategies' plans took afterwards."""

    model: str
    split_s: float
    """Duration of the split with ``auto``."""
    again_s: float
    """Duration of the same split once more."""
    segments: int
    auto_s: float
    best_s: float
    best: str
    """Strategy of the fastest plan; ``auto`` where no other is faster."""
    alone_s: float
    alone: str
    """The fastest device alone."""
    best_ratio: float
    """Time of the plan of ``auto`` relative to the fastest plan, in the same rounds."""
    alone_ratio: float
    """Time of the fastest device alone relative to the plan of ``auto``, in the same rounds."""
    plans: int
    """Number of different plans that were measured."""

    @property
    def met(self) -> bool:
        return self.best_ratio <= BEST_RATIO_MAX and self.alone_ratio >= ALONE_RATIO_MIN


def compare_auto(
    folder: Path,
    *,
    devices: str,
    selected: Sequence[str] = (),
    rounds: int = 15,
    budget_s: float | None = None,
    progress: Progress = no_progress,
) -> list[AutoOutcome]:
    """Split each real model with ``auto``, then measure the plans of all strategies.

    Parameters
    ----------
    folder : Path
        Of the models.
    selected : sequence of str
        Parts of the models' names; all when left out.
    budget_s : float, optional
        As for `trisect.split`.

    Raises
    ------
    TrisectError
        When a model cannot be split with ``auto``, or the folder holds none.
    """
    files = models_in(folder, selected)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="trisect-bench-") as scratch:
        chosen = api.usable_devices(devices)
        for number, file in enumerate(files):
            progress(number, len(files), file.name)
            home = Path(scratch) / file.name
            with caches_in(home):
                outcomes.append(_compare(folder / file.name, file.shapes, chosen, home, rounds, budget_s))
            shutil.rmtree(home)
    return outcomes


def _compare(
    model: Path, shapes: Mapping[str, int], devices: Sequence[Device], home: Path, rounds: int, budget_s: float | None
) -> AutoOutcome:
    ids = [device.id for device in devices]

    def split_auto(out: str) -> Plan:
        return api.split(model, ids, shapes=shapes, out=home / out, budget_s=budget_s)

    auto, split_s = timed(lambda: split_auto("auto"))
    _, again_s = timed(lambda: split_auto("again"))
    plans: dict[str, tuple[str, Plan]] = {signature(auto): ("auto", auto)}
    for strategy in (*(f"single:{id_}" for id_ in ids), *(name for name in names() if name not in ("auto", "single"))):
        try:
            plan = api.split(
                model, ids, strategy, shapes=shapes, out=home / strategy.replace(":", "-"), time_limit_s=_SEARCH_S,
                verify=False,
            )  # fmt: skip
        except TrisectError:  # a strategy that needs an argument, or a device that cannot run the model
            continue
        plans.setdefault(signature(plan), (strategy, plan))
    times_s = _measured(plans, rounds)
    singles = {key for key, (_, plan) in plans.items() if len(plan.used_devices) == 1}
    own = signature(auto)
    best = min(times_s, key=lambda key: median(times_s[key]))
    alone = min(singles & times_s.keys(), key=lambda key: median(times_s[key]), default=own)
    return AutoOutcome(
        model.name, split_s, again_s, len(auto.segments), median(times_s[own]), median(times_s[best]), plans[best][0],
        median(times_s[alone]), plans[alone][1].segments[0].device, median_ratio(times_s[own], times_s[best]),
        median_ratio(times_s[alone], times_s[own]), len(plans),
    )  # fmt: skip


def _measured(plans: Mapping[str, tuple[str, Plan]], rounds: int) -> dict[str, list[float]]:
    """Return the times of the plans that are not far slower than the best, in each round; the first one is in it."""
    runs = ContenderRuns()
    first_s: dict[str, float] = {}
    try:
        for key, (_, plan) in plans.items():
            enough_s = _IN_TURNS_RATIO * min(first_s.values(), default=float("inf"))
            try:
                first_s[key] = runs.first(
                    plan, duration_s=_RUNNING_S, enough_s=enough_s, time_limit_s=_TIME_LIMIT_S
                ).value_s
            except TrisectError:
                continue
        own = next(iter(plans))
        singles = {key for key in first_s if len(plans[key][1].used_devices) == 1}
        near = {key for key, time_s in first_s.items() if time_s <= _IN_TURNS_RATIO * min(first_s.values())}
        alone = {min(singles, key=lambda key: first_s[key])} if singles else set()
        together = [key for key in plans if key in {own} | near | alone]
        rows = runs.in_turns(
            [plans[key][1] for key in together], rounds=rounds, turn_s=_TURN_S, time_limit_s=_TIME_LIMIT_S
        )
    finally:
        runs.close()
    columns = zip(together, zip(*(row.times_s for row in rows), strict=True), strict=True)
    return {key: [t for t in column if t is not None] for key, column in columns if None not in column}
