"""Candidates of a comparison: the plans of strategies, and the peers that run the whole model.

Strategies often agree. A placement that several of them return is measured once, under the name of the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from trisect import api
from trisect.partitioner.strategies import lookup, names
from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidInput, ProfileMissing, TrisectError, one_line
from trisect.runtime.plans.plan import Plan
from trisect.runtime.progress import Progress
from trisect.scheduler.problem.rules import Objective

from ..contenders import PeerVariant, peer_variants
from ..time_limit import TimeLimitExceeded, time_limit
from .interleaved_measurement import ContenderConfig

PLANNING_LIMIT_S = 60.0
"""A strategy that takes longer is interrupted; trisect's own searches stop far earlier."""


@dataclass(frozen=True)
class Candidate:
    """A strategy or a peer, and what is measured for it."""

    name: str
    also: tuple[str, ...] = ()
    """Strategies that returned the same placement."""
    plan: Plan | None = None
    peer: PeerVariant | None = None
    contender: ContenderConfig | None = None
    """None where planning failed, or another candidate is measured instead."""
    failed: str | None = None


def parse_strategies(text: str | Sequence[str], devices: Sequence[Device]) -> list[str]:
    """Return the names of strategies in a user's text: ``all``, or comma-separated names.

    ``single`` stands for every device alone.

    Raises
    ------
    UnknownStrategy
        With the nearest name.
    InvalidInput
        For no name at all.

    Examples
    --------
    >>> parse_strategies("heft,single", [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")])
    ['heft', 'single:cpu:x', 'single:gpu:y']
    """
    words = [word.strip() for part in ([text] if isinstance(text, str) else text) for word in part.split(",")]
    parsed: dict[str, None] = {}
    for word in filter(None, words):
        for name in names() if word == "all" else [word]:
            lookup(name)
            parsed.update(dict.fromkeys([f"single:{d.id}" for d in devices] if name == "single" else [name]))
    if not parsed:
        raise InvalidInput("no strategy given", remedy="give names such as auto,heft, or all")
    return list(parsed)


def plan_candidates(
    model: Path,
    devices: Sequence[Device],
    strategies: Sequence[str],
    objective: Objective,
    shapes: Mapping[str, int],
    seed: int,
    folder: Path,
    progress: Progress,
) -> list[Candidate]:
    """Plan with each strategy; one that raises, or does not end, becomes a candidate that failed.

    Returns
    -------
    list of Candidate
        In the order of the strategies; those with equal placements as one.

    Raises
    ------
    ProfileMissing
        Where something about the devices is unknown and could not be measured.
    """
    candidates: dict[str, Candidate] = {}
    ids = [device.id for device in devices]
    with suppress(TrisectError):  # the first split runs the model on each device, which is no strategy's own time
        api.split(model, ids, f"single:{ids[0]}", objective, shapes, seed=seed, out=folder / "known", verify=False)
    for number, strategy in enumerate(strategies):
        progress(number, len(strategies), f"planning: {strategy}")
        # Not verified: every contender's outputs are compared with the whole model's.
        split = partial(api.split, model, ids, strategy, objective, shapes, seed=seed, verify=False)
        try:
            with time_limit(PLANNING_LIMIT_S):
                plan = split(out=folder / str(number))
                moved = 0 if _is_ours(strategy) else _moved(plan, split(out=folder / f"{number}-again"))
        except ProfileMissing:  # so it would be for every other strategy
            raise
        except TrisectError as error:
            candidates[strategy] = Candidate(strategy, failed=error.message)
            continue
        except TimeLimitExceeded:
            candidates[strategy] = Candidate(strategy, failed=f"no placement within {PLANNING_LIMIT_S:g} s")
            continue
        except (Exception, SystemExit) as error:  # a strategy may be the user's code: reported as its failure
            candidates[strategy] = Candidate(strategy, failed=one_line(error, 200))
            continue
        if moved:
            reason = f"not deterministic: with seed {seed} again, {moved} of {len(plan.placement)} nodes moved"
            candidates[strategy] = Candidate(strategy, failed=reason)
            continue
        key = signature(plan)
        if key in candidates:
            candidates[key] = replace(candidates[key], also=(*candidates[key].also, strategy))
        else:
            candidates[key] = Candidate(strategy, plan=plan, contender=_plan_contender(key, strategy, plan))
    return list(candidates.values())


def peer_candidates(model: Path, devices: Sequence[Device]) -> list[Candidate]:
    """Return how other systems would run the model on these devices."""
    by_id = {device.id: device for device in devices}
    candidates = []
    for system, peer in peer_variants(devices):
        settings = {**peer.settings, "devices": list(peer.devices)}
        used = tuple(by_id[id_] for id_ in peer.devices if id_ in by_id)
        contender = None
        if peer.same_as is None:
            contender = ContenderConfig(_digest([system, settings]), peer.label, system, model, used, settings)
        candidates.append(Candidate(peer.label, peer=peer, contender=contender))
    return candidates


def signature(plan: Plan) -> str:
    """Return a hash that is equal for plans of one model that run the same nodes together on the same devices."""
    return _digest([(segment.device, segment.nodes) for segment in plan.segments])


def used_devices(plan: Plan) -> tuple[Device, ...]:
    """Return the devices that a plan's segments run on."""
    ids = {segment.device for segment in plan.segments}
    return tuple(device for device in plan.devices if device.id in ids)


def _is_ours(strategy: str) -> bool:
    """Whether it is known to be deterministic for a seed; others plan twice."""
    return lookup(strategy).__module__.startswith("trisect.")


def _moved(plan: Plan, again: Plan) -> int:
    return sum(again.placement.get(node) != device for node, device in plan.placement.items())


def _plan_contender(key: str, label: str, plan: Plan) -> ContenderConfig:
    used = used_devices(plan)
    return ContenderConfig(key, label, "_plan", Path(plan.folder), used, overlaps=len(used))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
