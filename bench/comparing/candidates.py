"""Who is compared: what strategies make of a model, and the peers that run it whole.

Strategies often agree. A placement that several of them gave is measured once, under the name of the first.
"""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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

from ..contenders import Offer, peer_offers
from .interleaved_measurement import Entrant

PLANNING_LIMIT_S = 60.0
"""A strategy that has not answered by then is given up; those of trisect that search stop far earlier."""


@dataclass(frozen=True)
class Candidate:
    """Something to be compared."""

    name: str
    """Of the strategy, or of the peer."""
    also: tuple[str, ...] = ()
    """Strategies that gave the same placement."""
    plan: Plan | None = None
    offer: Offer | None = None
    entrant: Entrant | None = None
    """None where planning failed, or another candidate is measured instead."""
    failed: str | None = None


def wanted_strategies(wanted: str | Sequence[str], devices: Sequence[Device]) -> list[str]:
    """Names of strategies from what a user writes: ``all``, or names with commas between them.

    ``single`` stands for every device alone.

    Raises
    ------
    UnknownStrategy
        With the nearest name.
    InvalidInput
        For no name at all.

    Examples
    --------
    >>> wanted_strategies("heft,single", [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")])
    ['heft', 'single:cpu:x', 'single:gpu:y']
    """
    words = [word.strip() for text in ([wanted] if isinstance(wanted, str) else wanted) for word in text.split(",")]
    found: dict[str, None] = {}
    for word in filter(None, words):
        for name in names() if word == "all" else [word]:
            lookup(name)
            found.update(dict.fromkeys([f"single:{d.id}" for d in devices] if name == "single" else [name]))
    if not found:
        raise InvalidInput("no strategy named", remedy="give names such as auto,heft, or all")
    return list(found)


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
    """Ask strategies for plans; one that raises, or never ends, becomes a candidate that failed.

    Returns
    -------
    list of Candidate
        In the order of the strategies, those that agree as one.

    Raises
    ------
    ProfileMissing
        Where something about the devices is not known and could not be measured.
    """
    found: dict[str, Candidate] = {}
    ids = [device.id for device in devices]
    with suppress(TrisectError):  # running the model on each device, the first time, is no strategy's own time
        api.split(model, ids, f"single:{ids[0]}", objective, shapes, seed=seed, out=folder / "known")
    for number, strategy in enumerate(strategies):
        progress(number, len(strategies), f"planning: {strategy}")
        split = partial(api.split, model, ids, strategy, objective, shapes, seed=seed)
        try:
            with _limit(PLANNING_LIMIT_S):
                plan = split(out=folder / str(number))
                moved = 0 if _is_ours(strategy) else _moved(plan, split(out=folder / f"{number}-again"))
        except ProfileMissing:  # so it would be for every other strategy
            raise
        except TrisectError as error:
            found[strategy] = Candidate(strategy, failed=error.message)
            continue
        except _TooLong:
            found[strategy] = Candidate(strategy, failed=f"it gave no placement within {PLANNING_LIMIT_S:g} s")
            continue
        except (Exception, SystemExit) as error:  # a strategy is anybody's code
            found[strategy] = Candidate(strategy, failed=one_line(error, 200))
            continue
        if moved:
            reason = f"not deterministic: with seed {seed} again, {moved} of {len(plan.placement)} nodes moved"
            found[strategy] = Candidate(strategy, failed=reason)
            continue
        key = signature(plan)
        if key in found:
            found[key] = replace(found[key], also=(*found[key].also, strategy))
        else:
            found[key] = Candidate(strategy, plan=plan, entrant=_plan_entrant(key, strategy, plan))
    return list(found.values())


def peer_candidates(model: Path, devices: Sequence[Device]) -> list[Candidate]:
    """What other systems would do with the model on these devices."""
    by_id = {device.id: device for device in devices}
    found = []
    for system, offer in peer_offers(devices):
        settings = {**offer.settings, "devices": list(offer.devices)}
        key = _digest([system, settings])
        used = tuple(by_id[id_] for id_ in offer.devices if id_ in by_id)
        entrant = Entrant(key, offer.label, system, model, used, settings) if offer.same_as is None else None
        found.append(Candidate(offer.label, offer=offer, entrant=entrant))
    return found


def signature(plan: Plan) -> str:
    """The same for plans of one model that run the same nodes together on the same devices."""
    return _digest([(segment.device, segment.nodes) for segment in plan.segments])


def used_devices(plan: Plan) -> tuple[Device, ...]:
    """The devices that a plan really runs on."""
    ids = {segment.device for segment in plan.segments}
    return tuple(device for device in plan.devices if device.id in ids)


def _is_ours(strategy: str) -> bool:
    """Of those the same seed is known to give the same placement; others are asked twice."""
    return lookup(strategy).__module__.startswith("trisect.")


def _moved(plan: Plan, again: Plan) -> int:
    return sum(again.placement.get(node) != device for node, device in plan.placement.items())


def _plan_entrant(key: str, label: str, plan: Plan) -> Entrant:
    used = used_devices(plan)
    return Entrant(key, label, "_plan", Path(plan.folder), used, overlaps=len(used))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class _TooLong(BaseException):
    """Past what a strategy's own ``except Exception`` would swallow."""


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Stops what runs too long, where the system has a clock that interrupts and this is the thread that it reaches."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise _TooLong

    before: Callable[..., object] | int | None = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
