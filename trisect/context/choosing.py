"""From wishes to what a planner understands: devices in ranks, an objective, and what was overridden on the way.

What binds most comes first: the user's policy file, the application's requirements, then its hints in the order of
`_RULES`. Every hint is held against the outcome, so that none can give way in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from trisect.runtime.device import Device, Kind
from trisect.runtime.errors import FallbackForbidden, InfeasibleProblem
from trisect.scheduler.problem.problem import Objective

from .requested_options import Wishes

Ranks = tuple[tuple[Kind, ...], ...]
"""Kinds of devices; a node goes to the first rank that can run it."""

_ALL: Ranks = (("npu", "gpu", "cpu"),)
_IN_TURN: Ranks = (("npu",), ("gpu",), ("cpu",))
_ACCELERATORS = frozenset({"gpu", "npu"})


@dataclass(frozen=True)
class Choice:
    """What the wishes come to on the devices that there are."""

    ranks: tuple[tuple[Device, ...], ...]
    """Devices that may be used; a node goes to the first rank that can run it."""
    objective: Objective
    notes: tuple[str, ...]
    """Every hint that was overridden, and why."""
    wishes: Wishes
    """As they stand after the user's policy."""
    held_back: tuple[Device, ...] = ()
    """Devices that hints, but nothing stronger, keep out: for what nothing else can run."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """All that may be used, the most wanted first."""
        return tuple(device for rank in self.ranks for device in rank)

    @property
    def strategy(self) -> str:
        """The planner's strategy that keeps to the ranks."""
        if len(self.ranks) == 1:
            return "auto"
        return "tiers:" + "|".join(",".join(device.id for device in rank) for rank in self.ranks)

    @property
    def accelerated(self) -> bool:
        """Whether a GPU or an NPU is among the most wanted devices."""
        return any(device.kind in _ACCELERATORS for device in self.ranks[0])


def choose(
    wishes: Wishes,
    available: Sequence[Device],
    *,
    users: Wishes | None = None,
    power_w: Mapping[str, float] | None = None,
) -> Choice:
    """Decide which devices may be used, in which order, and what to make small.

    Parameters
    ----------
    wishes : Wishes
        The application's.
    available : sequence of Device
    users : Wishes, optional
        The user's own, which the application's cannot undo.
    power_w : mapping of str to float, optional
        Device id -> power drawn at work, as measured or published.

    Raises
    ------
    InfeasibleProblem
        Where the user's policy leaves no device, or a requirement cannot be met by the devices that there are.

    Examples
    --------
    >>> cpu, npu = Device("cpu:a", "cpu", "a", ""), Device("npu:b", "npu", "b", "")
    >>> found = choose(Wishes.of(power_preference="high-performance"), [cpu, npu])
    >>> [device.id for device in found.devices]
    ['npu:b', 'cpu:a']
    >>> found.notes
    ("power_preference='high-performance' overridden: there is no GPU here",)
    """
    users, power_w = users or Wishes(), power_w or {}
    merged = _merged(wishes, users)
    permitted = tuple(device for device in available if device.kind not in users.avoid)
    if not permitted:
        message = f"the user's policy avoids every device here: {', '.join(users.avoid)}"
        raise InfeasibleProblem(message, remedy="change the policy file")
    kinds, decided_by = next(
        ((said, _tell(merged, name)) for name, rule in _RULES.items() if (said := rule(merged)) is not None),
        (_ALL, ""),
    )
    if merged.prefer is not None and merged.policy is None and merged.accelerated is not False:
        kinds = (tuple(kind for rank in kinds for kind in rank),)  # the goal decides among them, not their order
    ranks = _ranked(permitted, kinds, without=merged.avoid) or _ranked(permitted, _ALL, without=merged.avoid)
    ranks = ranks or _ranked(permitted, _ALL)
    objective, goal_notes = _objective(merged, ranks, power_w)
    if merged.prefer == "accuracy":
        ranks = _computing_in_float32(ranks)
    elif goal_notes:
        ranks = _ranked(tuple(d for rank in ranks for d in rank), _IN_TURN)
    elif merged.policy == "min-overall-power":
        ranks = tuple((device,) for device in sorted((d for rank in ranks for d in rank), key=lambda d: power_w[d.id]))
    chosen = {device.id for rank in ranks for device in rank}
    choice = Choice(ranks, objective, (), merged, tuple(d for d in permitted if d.id not in chosen))
    _check_requirements(choice)
    overridden = tuple(_overridden(wishes, merged, choice, decided_by))
    return replace(choice, notes=(*overridden, *goal_notes))


def _merged(wishes: Wishes, users: Wishes) -> Wishes:
    """The application's wishes, the user's laid over them."""
    said = {spec.name: getattr(users, spec.name) for spec in fields(Wishes)}
    laid = {name: value for name, value in said.items() if value != getattr(Wishes(), name)}
    for name in ("avoid", "require"):  # both hold
        laid[name] = tuple(dict.fromkeys((*getattr(users, name), *getattr(wishes, name))))
    return replace(wishes, **laid)


def _by_policy(wishes: Wishes) -> Ranks | None:
    match wishes.policy:
        case None:
            return None
        case "prefer-cpu":
            return (("cpu",), ("npu",), ("gpu",))
        case "prefer-gpu":
            return (("gpu",), ("cpu",), ("npu",))
        case "prefer-npu":
            return (("npu",), ("cpu",), ("gpu",))
        case _:
            return _ALL


def _by_fallback(wishes: Wishes) -> Ranks | None:
    return tuple((kind,) for kind in wishes.fallback) or None


def _by_power_preference(wishes: Wishes) -> Ranks | None:
    match wishes.power_preference:
        case "low-power":
            return (("npu",), ("cpu",))
        case "high-performance":
            return (("gpu",), ("npu",), ("cpu",))
        case None:
            return None


def _by_acceleration(wishes: Wishes) -> Ranks | None:
    if wishes.accelerated is None:
        return None
    return (("npu", "gpu"), ("cpu",)) if wishes.accelerated else (("cpu",),)


_RULES: Mapping[str, Callable[[Wishes], Ranks | None]] = {
    "policy": _by_policy,
    "fallback": _by_fallback,
    "power_preference": _by_power_preference,
    "accelerated": _by_acceleration,
}
"""Hints that say which devices, the most specific first; the first that was given decides."""


def _ranked(devices: Sequence[Device], kinds: Ranks, without: Sequence[Kind] = ()) -> tuple[tuple[Device, ...], ...]:
    ranks = (tuple(d for kind in rank for d in devices if d.kind == kind and kind not in without) for rank in kinds)
    return tuple(rank for rank in ranks if rank)


def _objective(
    wishes: Wishes, ranks: tuple[tuple[Device, ...], ...], power_w: Mapping[str, float]
) -> tuple[Objective, tuple[str, ...]]:
    """What to make small, and what is said where the figures for it are missing."""
    if wishes.policy in ("max-efficiency", "min-overall-power") or wishes.prefer == "sustained":
        unknown = [device.id for rank in ranks for device in rank if device.id not in power_w]
        hint = "policy" if wishes.policy in ("max-efficiency", "min-overall-power") else "prefer"
        if unknown:
            missing = f"the power of {', '.join(unknown)} is not measured"
            return "latency", (f"{_tell(wishes, hint)}: {missing}, so NPUs come before GPUs and these before CPUs",)
        return ("latency" if wishes.policy == "min-overall-power" else "energy"), ()
    return ("throughput" if wishes.prefer == "throughput" else "latency"), ()


def _computing_in_float32(ranks: tuple[tuple[Device, ...], ...]) -> tuple[tuple[Device, ...], ...]:
    exact = tuple(
        tuple(device for device in rank if not device.limits.dtypes or "float32" in device.limits.dtypes)
        for rank in ranks
    )
    return tuple(rank for rank in exact if rank) or ranks


def _check_requirements(choice: Choice) -> None:
    """Refuse what can be refused before there is a model."""
    there_are = ", ".join(device.id for device in choice.devices)
    kinds = {device.kind for device in choice.devices}
    for requirement in choice.wishes.require:
        if requirement in ("no-cpu-fallback", "accelerated") and not kinds & _ACCELERATORS:
            raise FallbackForbidden(
                f"require={requirement!r} cannot hold: there is neither a GPU nor an NPU to use, only {there_are}",
                remedy="leave it out, or run where there is one",
            )
        if requirement == "low-power" and "npu" not in kinds:
            raise InfeasibleProblem(
                f"require='low-power' cannot hold: there is no NPU to use, only {there_are}",
                remedy="say power_preference='low-power' instead, which may be overridden",
            )


def _overridden(wishes: Wishes, merged: Wishes, choice: Choice, decided_by: str) -> list[str]:
    """A line for each hint of the application that the outcome does not bear out."""
    notes: list[str] = []
    for name, holds in _HOLDS.items():
        said = getattr(wishes, name)
        if said == getattr(Wishes(), name):
            continue
        told = _tell(wishes, name)
        now = getattr(merged, name)
        if name != "avoid" and now != said:
            notes.append(f"{told} overridden: the user's policy says {_tell(merged, name)}")
        elif not holds(wishes, choice):
            notes.append(f"{told} overridden: {_why(name, said, choice, decided_by if decided_by != told else '')}")
    return notes


def _why(name: str, said: object, choice: Choice, decided_by: str) -> str:
    wanted = {"low-power": ["npu"], "high-performance": ["gpu"]}.get(str(said), [])
    wanted = wanted or (["npu", "gpu"] if said is True else [])
    wanted = wanted or ([str(said).removeprefix("prefer-")] if str(said).startswith("prefer-") else [])
    wanted = wanted or ([*said] if name == "fallback" and isinstance(said, tuple) else [])
    there = {device.kind for device in (*choice.devices, *choice.held_back)}
    if wanted and not there & set(wanted):
        return f"there is no {' and no '.join(kind.upper() for kind in wanted)} here"
    if name != "avoid" and choice.wishes.avoid and set(wanted) & set(choice.wishes.avoid):
        return f"{_tell(choice.wishes, 'avoid')} outranks it"
    if decided_by:
        return f"{decided_by} outranks it"
    return f"what is left to use is {', '.join(device.id for device in choice.devices)}"


def _first(choice: Choice) -> set[Kind]:
    return {device.kind for device in choice.ranks[0]}


def _has(choice: Choice) -> set[Kind]:
    return {device.kind for device in choice.devices}


def _power_preference_holds(wishes: Wishes, choice: Choice) -> bool:
    if wishes.power_preference == "low-power":
        return "npu" in _first(choice) and "gpu" not in _has(choice)
    return "gpu" in _first(choice)


def _acceleration_holds(wishes: Wishes, choice: Choice) -> bool:
    return choice.accelerated if wishes.accelerated else not _has(choice) & _ACCELERATORS


def _fallback_holds(wishes: Wishes, choice: Choice) -> bool:
    order = list(wishes.fallback)
    used = list(dict.fromkeys(device.kind for device in choice.devices))
    return bool(set(used) <= set(order)) and sorted(used, key=order.index) == used


def _policy_holds(wishes: Wishes, choice: Choice) -> bool:
    policy = str(wishes.policy)
    return not policy.startswith("prefer-") or policy.removeprefix("prefer-") in _first(choice)


def _preference_holds(wishes: Wishes, choice: Choice) -> bool:
    if wishes.prefer == "accuracy":
        return all(not d.limits.dtypes or "float32" in d.limits.dtypes for d in choice.devices)
    return choice.wishes.policy in (None, "max-performance") or (
        wishes.prefer == "sustained" and choice.wishes.policy == "max-efficiency"
    )


_HOLDS: Mapping[str, Callable[[Wishes, Choice], bool]] = {
    "policy": _policy_holds,
    "fallback": _fallback_holds,
    "power_preference": _power_preference_holds,
    "accelerated": _acceleration_holds,
    "avoid": lambda wishes, choice: not _has(choice) & set(wishes.avoid),
    "prefer": _preference_holds,
}
"""Whether a hint of the application is borne out by the outcome."""


def _tell(wishes: Wishes, name: str) -> str:
    said = getattr(wishes, name)
    return f"{name}={list(said) if isinstance(said, tuple) else said!r}"
